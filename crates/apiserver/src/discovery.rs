//! What is served: discovery documents.
