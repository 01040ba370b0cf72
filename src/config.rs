//! Every path and variable (skeleton).
