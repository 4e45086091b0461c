"""The verbs of the `faregate` command, one module each, with EXAMPLE, add_arguments and run."""
