"""The built-in data set: 1,344 customer reviews written for this project.

``reviews.csv`` has the columns ``text``, ``label`` (negative, positive), ``area`` (eight kinds of
products and services), ``tag`` (what makes the review hard) and ``split`` (train 840, dev 168,
test 336). Of 1,024, every area, tag and label is in each split in equal parts. The other 320 have the
tag ``simple``: they are what a model of hard reviews alone gets wrong ("Clean room", "Dull"); positive
and negative ones are pairs with the same neutral words, and a pair is in one split.
"""
