"""What drives each label over a whole file of texts: phrases, filters, groups, doubtful texts, mistakes."""
