//! Protobuf's wire format: keys, varints, lengths. Errors are worded as Go's generated decoders word them.

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// They end too early.
    #[error("unexpected EOF")]
    End,
    /// A number of more than 64 bits.
    #[error("proto: integer overflow")]
    Overflow,
    /// A length that Go's `int` cannot hold.
    #[error("proto: negative length found during unmarshaling")]
    Length,
    /// The end of a group that did not begin.
    #[error("proto: unexpected end of group")]
    EndOfGroup,
    /// A type that protobuf does not have.
    #[error("proto: illegal wireType {0}")]
    Type(u8),
    /// A field number that protobuf does not have.
    #[error("proto: illegal tag {0} (wire type {1})")]
    Tag(u64, u8),
    /// Another type than the field has.
    #[error("proto: wrong wireType = {found} for field {field}")]
    Mismatch {
        /// The type that was found.
        found: u8,
        /// What it was found for.
        field: String,
    },
    /// A value that is none of its type.
    #[error("{field}: {reason}")]
    Value {
        /// What it was found for.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// More than is read.
    #[error("the object has too many values or is too deep")]
    TooLarge,
}

/// The value of one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire<'a> {
    /// A number, or a boolean.
    Varint(u64),
    /// Eight bytes, skipped.
    Fixed64,
    /// Text, bytes or a message.
    Bytes(&'a [u8]),
    /// A group, skipped with everything in it.
    Group,
    /// Four bytes, skipped.
    Fixed32,
}

impl<'a> Wire<'a> {
    fn number(self) -> u8 {
        match self {
            Self::Varint(_) => 0,
            Self::Fixed64 => 1,
            Self::Bytes(_) => 2,
            Self::Group => 3,
            Self::Fixed32 => 5,
        }
    }

    /// The error that `field` is of another type.
    pub(super) fn mismatch(self, field: &str) -> WireError {
        let mut letters = field.chars();
        let field = letters.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string());
        WireError::Mismatch { found: self.number(), field: field + letters.as_str() }
    }

    /// The bytes of a text or message.
    pub(super) fn bytes(self, field: &str) -> Result<&'a [u8], WireError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            other => Err(other.mismatch(field)),
        }
    }

    /// Text; what is not UTF-8 is replaced, as Go's JSON encoder does.
    pub(super) fn text(self, field: &str) -> Result<String, WireError> {
        self.bytes(field).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// A number, in two's complement where it is less than zero.
    pub(super) fn varint(self, field: &str) -> Result<u64, WireError> {
        match self {
            Self::Varint(number) => Ok(number),
            other => Err(other.mismatch(field)),
        }
    }

    /// A 64-bit number.
    pub(super) fn int64(self, field: &str) -> Result<i64, WireError> {
        self.varint(field).map(u64::cast_signed)
    }
}

/// The fields of a message, in the order in which they are there; nothing after the first error.
pub(super) fn fields(bytes: &[u8]) -> impl Iterator<Item = Result<(u32, Wire<'_>), WireError>> {
    let mut reader = Reader(bytes);
    std::iter::from_fn(move || {
        if reader.0.is_empty() {
            return None;
        }
        let field = reader.field();
        if field.is_err() {
            reader.0 = &[];
        }
        Some(field)
    })
}

/// The numbers of a packed list.
pub(super) fn packed(bytes: &[u8]) -> impl Iterator<Item = Result<u64, WireError>> {
    let mut reader = Reader(bytes);
    std::iter::from_fn(move || {
        if reader.0.is_empty() {
            return None;
        }
        let number = reader.varint();
        if number.is_err() {
            reader.0 = &[];
        }
        Some(number)
    })
}

/// What has not been read yet.
struct Reader<'a>(&'a [u8]);

/// The largest field number that protobuf allows.
const LAST_NUMBER: u64 = (1 << 29) - 1;

impl<'a> Reader<'a> {
    fn field(&mut self) -> Result<(u32, Wire<'a>), WireError> {
        let (number, kind) = self.key()?;
        let wire = match kind {
            3 => {
                self.skip_group()?;
                Wire::Group
            }
            4 => return Err(WireError::EndOfGroup),
            other => self.simple(other)?,
        };
        Ok((number, wire))
    }

    fn key(&mut self) -> Result<(u32, u8), WireError> {
        let key = self.varint()?;
        let kind = (key & 7) as u8;
        match u32::try_from(key >> 3) {
            Ok(number) if (1..=LAST_NUMBER).contains(&u64::from(number)) => Ok((number, kind)),
            _ => Err(WireError::Tag(key >> 3, kind)),
        }
    }

    fn simple(&mut self, kind: u8) -> Result<Wire<'a>, WireError> {
        match kind {
            0 => self.varint().map(Wire::Varint),
            1 => self.take(8).map(|_| Wire::Fixed64),
            2 => {
                let length = self.varint()?;
                let length = i64::try_from(length).map_err(|_| WireError::Length)?;
                self.take(usize::try_from(length).map_err(|_| WireError::Length)?).map(Wire::Bytes)
            }
            5 => self.take(4).map(|_| Wire::Fixed32),
            other => Err(WireError::Type(other)),
        }
    }

    /// Skips to the end of a group and of those in it, without recursion.
    fn skip_group(&mut self) -> Result<(), WireError> {
        let mut depth = 1_usize;
        while depth > 0 {
            match self.key()? {
                (_, 3) => depth += 1,
                (_, 4) => depth -= 1,
                (_, other) => {
                    self.simple(other)?;
                }
            }
        }
        Ok(())
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(WireError::End)?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(WireError::Overflow)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(WireError::End)?;
        self.0 = rest;
        Ok(taken)
    }
}
