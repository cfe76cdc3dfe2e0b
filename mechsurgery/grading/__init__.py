"""What a response is: refusals, quality, rubrics, ratings, as named and versioned grades."""
