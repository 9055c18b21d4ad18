"""What evaluators share: samples, ranks, scores, prompt templates, figures."""
