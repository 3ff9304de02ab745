"""Training graphs: batch norms that are not trained fold into the convolution before them, step by step."""
