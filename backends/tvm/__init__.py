"""GROUPED programs to machine code and artifact files; the only folder that imports tvm."""
