//! What a container of a Pod has said.
