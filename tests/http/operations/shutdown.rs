//! The end: by a signal, in order, in time.
