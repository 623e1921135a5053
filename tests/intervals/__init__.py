"""Tests of every interval that is reported."""
