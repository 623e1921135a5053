"""Intervals over seeds and questions: what they know, and how often they hold the truth."""

import numpy as np
import pytest

from thinksafe_jax.intervals import Answers, crossed, crossed_difference, wilson
from thinksafe_jax.intervals.quantiles import t_quantile
from thinksafe_jax.intervals.shares import wilson_interval


def answers(table, first=0) -> Answers:
    """One answer a cell; NaN where it could not be read."""
    table = np.asarray(table, float)
    questions = tuple(f"q{n:04d}" for n in range(first, first + table.shape[1]))
    return Answers(questions, np.nan_to_num(table), (~np.isnan(table)).astype(float))


def drawn(rng, seeds=5, questions=200, mean=-0.5, seed_sd=0.0, question_sd=1.0, shared=None):
    """Answers of a world in which seeds and questions differ; `shared` are the questions' own."""
    shared = rng.normal(0, question_sd, questions) if shared is None else shared
    logits = mean + shared[None, :] + rng.normal(0, seed_sd, seeds)[:, None]
    return answers(rng.random((seeds, questions)) < 1 / (1 + np.exp(-logits)))


def test_one_seed_is_nearly_wilson():
    table = np.zeros((1, 250))
    table[0, :50] = 1
    ours, theirs = crossed([answers(table)]), wilson(50, 250)
    assert ours.value == theirs.value and ours.sd is None and ours.n == 250
    assert ours.low == pytest.approx(theirs.low, abs=2e-3)
    assert ours.high == pytest.approx(theirs.high, abs=2e-3)


def test_seeds_that_answer_alike_are_no_more_questions():
    one = np.random.default_rng(0).random((1, 100)) < 0.4
    single, five = crossed([answers(one)]), crossed([answers(np.repeat(one, 5, axis=0))])
    assert five.value == single.value and five.sd == 0.0
    assert (five.low, five.high) == pytest.approx((single.low, single.high), abs=1e-9)


def test_seeds_that_differ_widen_the_interval():
    """Each seed all right or all wrong: the questions say nothing, five seeds say little."""
    table = np.repeat([[1.0], [0.0], [1.0], [1.0], [0.0]], 400, axis=1)
    estimate = crossed([answers(table)])
    assert estimate.value == 0.6 and estimate.seeds == (1.0, 0.0, 1.0, 1.0, 0.0)
    assert estimate.low < 0.2 and estimate.high > 0.85


def test_none_of_many_still_has_a_width():
    estimate = crossed([answers(np.zeros((5, 313)))])
    assert (estimate.value, estimate.low) == (0.0, 0.0)
    assert estimate.high == pytest.approx(wilson(0, 313).high)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_questions_that_nobody_could_read_an_answer_to_are_no_trials(share):
    """Of a garbled model: 250 questions, and of ten of them an answer that could be read."""
    table = np.full((5, 250), np.nan)
    table[:, :10] = share
    ours, theirs = crossed([answers(table)]), wilson(10 * int(share), 10)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    other = np.full((5, 250), share)
    same = crossed_difference([answers(table)], [answers(other)])
    assert same.value == 0.0 and same.high == -same.low == pytest.approx(1 - 0.025 ** (1 / 10))


def test_what_cannot_be_read_is_left_out_and_a_seed_without_answers_leaves_no_rate():
    table = np.array([[1.0, 0.0, np.nan, np.nan], [1.0, 1.0, 0.0, 0.0]])
    assert crossed([answers(table)]).seeds == (0.5, 0.5)
    table[0] = np.nan
    assert crossed([answers(table)]).value is None


def test_a_measure_of_two_suites_is_their_mean():
    few, many = answers(np.ones((2, 10))), answers(np.zeros((2, 1000)), first=10)
    estimate = crossed([few, many])
    assert estimate.value == 0.5 and estimate.n == 1010


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_suite_that_is_asked_twice_says_no_more_than_once(share):
    suite = answers(np.random.default_rng(5).random((5, 40)) < share)
    once, twice = crossed([suite]), crossed([suite, suite])
    assert twice.n == once.n == 40 and twice.seeds == once.seeds
    assert (twice.value, twice.low, twice.high) == pytest.approx(
        (once.value, once.low, once.high), abs=1e-12
    )


@pytest.mark.parametrize("alike", [False, True])
def test_a_difference_on_a_suite_that_is_asked_twice_says_no_more_than_once(alike):
    rng = np.random.default_rng(6)
    left, right = (answers(rng.random((3, 40)) < share) for share in (0.3, 0.6))
    right = left if alike else right
    once, twice = (crossed_difference([left] * k, [right] * k) for k in (1, 2))
    assert twice.n == once.n == 40
    assert (twice.value, twice.low, twice.high) == pytest.approx(
        (once.value, once.low, once.high), abs=1e-12
    )


def test_suites_without_a_common_question_add_their_variances():
    """Of one seed: a quarter of each suite's p (1 - p) / (P - 1), and P - 1 degrees of each."""
    tables = np.random.default_rng(8).random((2, 1, 50)) < [[[0.4]], [[0.7]]]
    estimate = crossed([answers(tables[0]), answers(tables[1], first=50)])
    shares = tables.mean(axis=(1, 2))
    variance = (shares * (1 - shares) / 49).sum() / 4
    p = shares.mean()
    trials = min(100, p * (1 - p) / variance) * (1.959963985 / t_quantile(98, 0.975)) ** 2
    assert (estimate.low, estimate.high) == pytest.approx(wilson_interval(p, trials, 0.95))


def test_seeds_and_questions_that_cancel_leave_an_interval():
    """The variance is 0, and so were its degrees of freedom: Student's quantile was no number."""
    left, right = answers([[0, 1, 0], [1, 0, 1]]), answers([[1, 0, 1], [0, 1, 0]])
    estimate, alike = (crossed_difference([left], [side]) for side in (right, left))
    assert (estimate.low, estimate.high) == (alike.low, alike.high) and alike.high > 0.7


def test_a_question_of_two_suites_is_one_when_intervals_hold_the_truth():
    """A plain and another suite of the same 60 prompts: hard ones are hard in both."""
    rng = np.random.default_rng(13)
    held = []
    for _ in range(300):
        hard = rng.normal(0, 2.0, 60)
        suites = [drawn(rng, mean=0.0, questions=60, shared=hard) for _ in range(2)]
        estimate = crossed(suites)
        held.append(estimate.low <= 0.5 <= estimate.high)
    assert 0.93 <= np.mean(held) <= 0.99


def test_a_difference_cancels_what_questions_have_in_common():
    rng = np.random.default_rng(3)
    hard = rng.normal(0, 4.0, 300)
    left, right = (drawn(rng, mean=mean, questions=300, shared=hard) for mean in (0.0, 0.4))
    paired = crossed_difference([left], [right])
    unpaired = np.hypot(*(e.high - e.low for e in (crossed([left]), crossed([right]))))
    assert paired.value == pytest.approx(crossed([right]).value - crossed([left]).value)
    assert paired.high - paired.low < 0.7 * unpaired


def test_a_difference_is_of_the_questions_that_both_have():
    left = answers([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    right = left.of(("q0001", "q0002"))
    same = crossed_difference([left], [right])
    assert (same.value, same.n) == (0.0, 2)
    assert same.low == -same.high < -0.8  # two questions say nearly nothing


@pytest.mark.parametrize(("seed_sd", "question_sd"), [(0.0, 1.5), (0.6, 1.0), (0.3, 0.0)])
def test_intervals_hold_the_truth_as_often_as_they_say(seed_sd, question_sd):
    """Known worlds: the truth is the mean over all seeds and questions there could be."""
    rng = np.random.default_rng(7)
    many = drawn(rng, seeds=2000, questions=2000, seed_sd=seed_sd, question_sd=question_sd)
    truth = many.hits.mean()
    estimates = [
        crossed([drawn(rng, seed_sd=seed_sd, question_sd=question_sd)]) for _ in range(400)
    ]
    held = np.mean([e.low <= truth <= e.high for e in estimates])
    assert 0.93 <= held <= 0.99


def test_differences_without_a_difference_are_rarely_found():
    rng = np.random.default_rng(11)
    shown = []
    for _ in range(300):
        hard = rng.normal(0, 1.5, 200)
        pair = [drawn(rng, seed_sd=0.4, shared=hard) for _ in range(2)]
        estimate = crossed_difference([pair[0]], [pair[1]])
        shown.append(not estimate.low <= 0 <= estimate.high)
    assert np.mean(shown) <= 0.08
