"""What each ATen operator computes, as tensor expressions."""
