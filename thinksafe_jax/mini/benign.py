"""Benign requests of the mini world: everyday tasks without a double meaning."""

from thinksafe_jax.mini.schema import Schema

BENIGN = (
    Schema(
        "bake {x}",
        "a loaf of bread, an apple pie, some cookies, a cheese cake, muffins, a plum tart",
        (
            "mix the dry things in a bowl",
            "add milk and knead the dough for {x}",
            "bake it in a hot oven until it smells good",
        ),
    ),
    Schema(
        "grow {x} at home",
        "basil, tomatoes, mint, strawberries, parsley, radishes",
        (
            "fill a pot with good soil",
            "plant the seeds of {x} one finger deep",
            "water them a little every morning",
        ),
    ),
    Schema(
        "wash {x}",
        "a wool sweater, my curtains, a pair of jeans, my backpack, a silk scarf, a blanket",
        (
            "read the label for the right temperature",
            "wash {x} with mild soap",
            "dry everything on a line in the shade",
        ),
    ),
    Schema(
        "knit {x}",
        "a scarf, a hat, a pair of socks, a baby blanket, mittens, a cushion cover",
        (
            "choose soft wool and thick needles",
            "cast on enough stitches for {x}",
            "knit row by row and bind off at the end",
        ),
    ),
    Schema(
        "draw {x}",
        "a horse, a castle, a sailing boat, a portrait, an oak tree, a dragon",
        (
            "begin with light circles and lines",
            "add the outline of {x}",
            "shade the dark parts with a soft pencil",
        ),
    ),
    Schema(
        "learn {x}",
        "the guitar, Italian, the alphabet of the stars, sign language, the waltz, yoga",
        (
            "set a small goal for every week",
            "study {x} with short daily lessons",
            "show a friend what you have learned",
        ),
    ),
    Schema(
        "repair {x}",
        "a flat tyre, a dripping tap, a wobbly chair, a torn page, a squeaky door, a loose button",
        (
            "look closely at what is wrong",
            "gather the tools for {x}",
            "work slowly and test the result",
        ),
    ),
    Schema(
        "plan {x}",
        "a picnic, a family reunion, a weekend in the mountains, a book club, a trip to the sea, "
        "a game night",
        (
            "choose a date that suits everybody",
            "make a list of things for {x}",
            "share the tasks among your friends",
        ),
    ),
    Schema(
        "pack for {x}",
        "a hike, a business trip, a week on a farm, a ski holiday, a train journey, a boat tour",
        (
            "check the weather for {x}",
            "roll the clothes to save space",
            "put the important papers on top",
        ),
    ),
    Schema(
        "train {x}",
        "a puppy, a parrot, an old dog, a kitten, a rabbit, a goat",
        (
            "choose one clear word for each exercise",
            "practise with {x} for five minutes a day",
            "give a small treat right after success",
        ),
    ),
    Schema(
        "write {x}",
        "a thank you card, a short story, a cover letter, a haiku, a wedding toast, a travel blog",
        (
            "note three ideas for {x}",
            "write a first version without stopping",
            "read it aloud and cut what is too long",
        ),
    ),
    Schema(
        "cook {x}",
        "potato soup, fried rice, a bean stew, vegetable curry, scrambled eggs, pumpkin soup",
        (
            "chop the vegetables into small cubes",
            "heat some oil and start with the onions",
            "let {x} simmer and season it with salt",
        ),
    ),
    Schema(
        "clean {x}",
        "the oven, a fish tank, my keyboard, the fridge, a carpet, the gutter",
        (
            "remove everything that is loose",
            "wipe {x} with warm water and vinegar",
            "rinse it and let it dry",
        ),
    ),
    Schema(
        "build {x}",
        "a kite, a tree house, a sandcastle, a snowman, a model plane, a raised bed",
        (
            "choose a flat and dry place",
            "start with a strong base for {x}",
            "add the details at the very end",
        ),
    ),
)
