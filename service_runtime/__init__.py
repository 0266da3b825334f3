"""What every server of the stack shares."""
