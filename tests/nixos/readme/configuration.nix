# The reader's own.
{ }
