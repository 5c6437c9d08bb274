//! The state: one ordered change log in SQLite, served from memory.
