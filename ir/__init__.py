"""The vocabulary: programs, signatures, operators, text, matching and rewriting. Knows neither passes nor backends."""
