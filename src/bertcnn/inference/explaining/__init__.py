"""Why one text is answered as it is: the n-grams that decided, exactly, and what would change the answer."""
