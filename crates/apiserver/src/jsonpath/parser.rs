//! Reading a path.

use serde_json::Value;

use super::{Comparison, Operand, Path, PathError, Step};

/// How deep filters may nest in filters.
const MAX_DEPTH: usize = 8;

pub(super) fn parse(text: &str) -> Result<Path, PathError> {
    let trimmed = text.trim();
    let inner = trimmed.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(trimmed);
    let mut parser = Parser { text: inner, at: 0 };
    let _ = parser.eat("$") || parser.eat("@");
    let steps = parser.steps(0)?;
    if parser.at < inner.len() {
        return Err(parser.error("unexpected character"));
    }
    Ok(Path { steps })
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn skip_spaces(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn error(&self, message: &'static str) -> PathError {
        PathError { message, at: self.at, path: self.text.to_owned() }
    }

    fn expect(&mut self, token: &str, message: &'static str) -> Result<(), PathError> {
        if self.eat(token) { Ok(()) } else { Err(self.error(message)) }
    }

    fn steps(&mut self, depth: usize) -> Result<Vec<Step>, PathError> {
        let mut steps = Vec::new();
        loop {
            if self.eat(".") {
                if self.rest().starts_with('.') {
                    return Err(self.error("recursive descent is not supported"));
                }
                if self.eat("*") {
                    steps.push(Step::Every);
                } else if !self.rest().starts_with('[') {
                    let name = self.name()?;
                    // A lone dot is the value itself.
                    if !name.is_empty() {
                        steps.push(Step::Field(name));
                    } else if !steps.is_empty() {
                        return Err(self.error("a name is missing"));
                    }
                }
            } else if self.eat("[") {
                steps.push(self.bracket(depth)?);
                self.skip_spaces();
                self.expect("]", "a bracket is not closed")?;
            } else {
                return Ok(steps);
            }
        }
    }

    /// A name after a dot; a backslash takes the next character as it is.
    fn name(&mut self) -> Result<String, PathError> {
        let mut name = String::new();
        let mut characters = self.rest().chars();
        while let Some(character) = characters.next() {
            match character {
                '\\' => {
                    let escaped =
                        characters.next().ok_or_else(|| self.error("the path ends in a backslash"))?;
                    name.push(escaped);
                    self.at += 1 + escaped.len_utf8();
                    continue;
                }
                '.' | '[' | ']' | '=' | '!' | '<' | '>' | '(' | ')' | '{' | '}' | ' ' | '\t' | '\n' => break,
                other => name.push(other),
            }
            self.at += character.len_utf8();
        }
        Ok(name)
    }

    fn bracket(&mut self, depth: usize) -> Result<Step, PathError> {
        self.skip_spaces();
        if self.eat("*") {
            return Ok(Step::Every);
        }
        if self.rest().starts_with(['\'', '"']) {
            return Ok(Step::Field(self.quoted()?));
        }
        if self.eat("?") {
            self.skip_spaces();
            self.expect("(", "a filter begins with '?('")?;
            if depth == MAX_DEPTH {
                return Err(self.error("filters nest too deep"));
            }
            let step = self.filter(depth + 1)?;
            self.skip_spaces();
            self.expect(")", "a filter is not closed")?;
            return Ok(step);
        }
        let from = self.number()?;
        self.skip_spaces();
        if self.eat(":") {
            let to = self.number()?;
            return Ok(Step::Slice(from, to));
        }
        from.map(Step::Index)
            .ok_or_else(|| self.error("an index, a name in quotes, '*' or a filter is missing"))
    }

    fn number(&mut self) -> Result<Option<i64>, PathError> {
        self.skip_spaces();
        let length = self.rest().bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'-').count();
        if length == 0 {
            return Ok(None);
        }
        let number = self.rest()[..length].parse().map_err(|_| self.error("this is not an index"))?;
        self.at += length;
        Ok(Some(number))
    }

    fn filter(&mut self, depth: usize) -> Result<Step, PathError> {
        let left = self.operand(depth)?;
        self.skip_spaces();
        let comparisons = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        let Some((_, comparison)) = comparisons.into_iter().find(|(token, _)| self.eat(token)) else {
            return match left {
                Operand::Path(path) => Ok(Step::Exists(path)),
                Operand::Literal(_) => Err(self.error("a filter compares something or asks for a path")),
            };
        };
        let right = self.operand(depth)?;
        Ok(Step::Filter(Box::new(left), comparison, Box::new(right)))
    }

    fn operand(&mut self, depth: usize) -> Result<Operand, PathError> {
        self.skip_spaces();
        if self.eat("@") {
            return Ok(Operand::Path(Path { steps: self.steps(depth)? }));
        }
        if self.rest().starts_with(['\'', '"']) {
            return Ok(Operand::Literal(Value::String(self.quoted()?)));
        }
        let length = self
            .rest()
            .bytes()
            .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.'))
            .count();
        let word = &self.rest()[..length];
        let literal = match word {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => match serde_json::from_str(word) {
                Ok(Value::Number(number)) => Value::Number(number),
                _ => return Err(self.error("a filter's operand is missing")),
            },
        };
        self.at += length;
        Ok(Operand::Literal(literal))
    }

    /// A text in single or double quotes; a backslash takes the next character as it is.
    fn quoted(&mut self) -> Result<String, PathError> {
        let mut text = String::new();
        let mut characters = self.rest().char_indices();
        let quote = characters.next().map(|(_, quote)| quote);
        while let Some((position, character)) = characters.next() {
            if Some(character) == quote {
                self.at += position + 1;
                return Ok(text);
            }
            if character == '\\' {
                text.extend(characters.next().map(|(_, escaped)| escaped));
            } else {
                text.push(character);
            }
        }
        Err(self.error("a quote is not closed"))
    }
}
