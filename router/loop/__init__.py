"""From answers to a better model: what owners let us keep of questions and answers, and what is made of it."""
