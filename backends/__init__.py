"""Ways to run a program: PyTorch eager, TVM, and the door of torch.compile."""
