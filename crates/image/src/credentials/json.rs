//! What is wrong with JSON that holds credentials, without quoting it.

/// Where JSON is malformed. The parser's own message would quote what it found there, which may be a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} at line {line}, column {column}", match fault {
    JsonFault::Syntax => "it is no JSON",
    JsonFault::Form => "a value has the wrong type, or is missing,",
    JsonFault::End => "it ends too early",
})]
pub struct JsonError {
    fault: JsonFault,
    /// Counted from 1.
    line: usize,
    /// Counted from 1.
    column: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JsonFault {
    Syntax,
    Form,
    End,
}

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> Self {
        let fault = match error.classify() {
            serde_json::error::Category::Data => JsonFault::Form,
            serde_json::error::Category::Eof => JsonFault::End,
            // Nothing is read from a stream, so that there are no failures to read.
            serde_json::error::Category::Syntax | serde_json::error::Category::Io => JsonFault::Syntax,
        };
        Self { fault, line: error.line(), column: error.column() }
    }
}
