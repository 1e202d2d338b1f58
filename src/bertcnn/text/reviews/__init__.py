"""The built-in data set: 1,024 customer reviews written for this project.

``reviews.csv`` has the columns ``text``, ``label`` (negative, positive), ``area`` (eight kinds of
products and services), ``tag`` (what makes the review hard) and ``split`` (train 640, dev 128,
test 256); every area, tag and label is in each split in equal parts.
"""
