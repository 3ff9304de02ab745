"""One rule a family of operators: rule(node, builder) = what stands for the node's value, or why nothing does."""
