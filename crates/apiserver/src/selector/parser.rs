//! The grammar of label selectors, with the messages of `k8s.io/apimachinery/pkg/labels`.

use super::labels::{Operator, Requirement};
use crate::metadata::is_qualified_name;
use crate::status::FieldError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    End,
    Close,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Identifier,
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
}

#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    kind: Kind,
    text: &'a str,
}

fn ends_word(byte: u8) -> bool {
    matches!(byte, b'=' | b'!' | b'(' | b')' | b',' | b'>' | b'<' | b' ' | b'\t' | b'\r' | b'\n')
}

fn special(text: &str) -> Option<Kind> {
    Some(match text {
        ")" => Kind::Close,
        "," => Kind::Comma,
        "!" => Kind::Not,
        "==" => Kind::DoubleEquals,
        "=" => Kind::Equals,
        ">" => Kind::Greater,
        "<" => Kind::Less,
        "!=" => Kind::NotEquals,
        "(" => Kind::Open,
        _ => return None,
    })
}

/// Cuts the text into tokens; the last one is [`Kind::End`]. A NUL ends the text, as it does for Kubernetes.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let text = text.split('\0').next().unwrap_or_default();
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        while bytes.get(at).is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')) {
            at += 1;
        }
        if at == bytes.len() {
            break;
        }
        let start = at;
        // The longest operator there is, of two characters or one.
        let operator = [2, 1].into_iter().find_map(|length| {
            let symbol = text.get(start..start + length)?;
            special(symbol).map(|kind| Token { kind, text: symbol })
        });
        if let Some(operator) = operator {
            at += operator.text.len();
            tokens.push(operator);
        } else {
            while bytes.get(at).is_some_and(|byte| !ends_word(*byte)) {
                at += 1;
            }
            let word = &text[start..at];
            let kind = match word {
                "in" => Kind::In,
                "notin" => Kind::NotIn,
                _ => Kind::Identifier,
            };
            tokens.push(Token { kind, text: word });
        }
    }
    tokens.push(Token { kind: Kind::End, text: "" });
    tokens
}

/// Reads a selector.
pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, String> {
    let mut parser = Parser { tokens: tokens(text), position: 0 };
    let mut requirements = Vec::new();
    loop {
        let (kind, found) = parser.peek();
        match kind {
            Kind::Identifier | Kind::Not => {
                let requirement =
                    parser.requirement().map_err(|error| format!("unable to parse requirement: {error}"))?;
                requirements.push(requirement);
                let (kind, found) = parser.next();
                match kind {
                    Kind::End => return Ok(requirements),
                    Kind::Comma => {
                        let (kind, found) = parser.peek();
                        if !matches!(kind, Kind::Identifier | Kind::Not) {
                            return Err(format!("found '{found}', expected: identifier after ','"));
                        }
                    }
                    _ => return Err(format!("found '{found}', expected: ',' or 'end of string'")),
                }
            }
            Kind::End => return Ok(requirements),
            _ => return Err(format!("found '{found}', expected: !, identifier, or 'end of string'")),
        }
    }
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    position: usize,
}

impl<'a> Parser<'a> {
    /// The next token where a key or a value may stand: `in` and `notin` are names there.
    fn peek(&self) -> (Kind, &'a str) {
        let (kind, text) = self.raw();
        (if matches!(kind, Kind::In | Kind::NotIn) { Kind::Identifier } else { kind }, text)
    }

    fn next(&mut self) -> (Kind, &'a str) {
        let next = self.peek();
        self.position += 1;
        next
    }

    fn raw(&self) -> (Kind, &'a str) {
        match self.tokens.get(self.position) {
            Some(token) => (token.kind, token.text),
            None => (Kind::End, ""),
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut kind, mut key) = self.next();
        let negated = kind == Kind::Not;
        if negated {
            (kind, key) = self.next();
        }
        if kind != Kind::Identifier {
            return Err(format!("found '{key}', expected: identifier"));
        }
        let faults = is_qualified_name(key);
        if !faults.is_empty() {
            return Err(FieldError::invalid("<nil>", key, faults.join("; ")).to_string());
        }
        if negated {
            return Requirement::new(key.to_owned(), Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek().0, Kind::End | Kind::Comma) {
            return Requirement::new(key.to_owned(), Operator::Exists, Vec::new());
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        Requirement::new(key.to_owned(), operator, values)
    }

    fn operator(&mut self) -> Result<Operator, String> {
        let (kind, found) = self.raw();
        self.position += 1;
        Ok(match kind {
            Kind::In => Operator::In,
            Kind::NotIn => Operator::NotIn,
            Kind::Equals | Kind::DoubleEquals => Operator::Equals,
            Kind::NotEquals => Operator::NotEquals,
            Kind::Greater => Operator::GreaterThan,
            Kind::Less => Operator::LessThan,
            _ => return Err(format!("found '{found}', expected: in, notin, =, ==, !=, gt, lt")),
        })
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        let (kind, found) = self.next();
        if kind != Kind::Open {
            return Err(format!("found '{found}' expected: '('"));
        }
        let (kind, found) = self.peek();
        match kind {
            Kind::Identifier | Kind::Comma => {
                let values = self.value_list()?;
                if self.next().0 != Kind::Close {
                    return Err(format!("found '{found}', expected: ')'"));
                }
                Ok(values)
            }
            Kind::Close => {
                self.position += 1;
                Ok(vec![String::new()])
            }
            _ => Err(format!("found '{found}', expected: ',', ')' or identifier")),
        }
    }

    /// Values between the parentheses; a place between commas that is left empty is the empty value.
    fn value_list(&mut self) -> Result<Vec<String>, String> {
        let mut values = Vec::new();
        loop {
            let (kind, found) = self.next();
            match kind {
                Kind::Identifier => {
                    values.push(found.to_owned());
                    let (kind, found) = self.peek();
                    match kind {
                        Kind::Comma => {}
                        Kind::Close => return Ok(values),
                        _ => return Err(format!("found '{found}', expected: ',' or ')'")),
                    }
                }
                Kind::Comma => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    match self.peek().0 {
                        Kind::Close => {
                            values.push(String::new());
                            return Ok(values);
                        }
                        Kind::Comma => values.push(String::new()),
                        _ => {}
                    }
                }
                _ => return Err(format!("found '{found}', expected: ',', or identifier")),
            }
        }
    }

    fn exact_value(&mut self) -> Result<String, String> {
        if matches!(self.peek().0, Kind::End | Kind::Comma) {
            return Ok(String::new());
        }
        let (kind, found) = self.next();
        if kind == Kind::Identifier {
            Ok(found.to_owned())
        } else {
            Err(format!("found '{found}', expected: identifier"))
        }
    }
}
