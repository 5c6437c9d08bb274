//! Objects as tables, and their metadata alone.
