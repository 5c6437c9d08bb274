//! Kubernetes' `resource.Quantity`: amounts such as `1Gi`, `500m`, `1e3` or `0.5`.
//!
//! A [`Quantity`] keeps two things side by side: what was written (its text, which messages and round trips print
//! unchanged, as Kubernetes does) and what it means (an exact count of billionths in an `i128`). Comparison and
//! arithmetic look at the meaning only, so `1Gi` equals `1024Mi`; printing looks at the text only.
//!
//! The grammar and its corner cases follow Kubernetes' own reader (`k8s.io/apimachinery/pkg/api/resource`): a lone sign
//! is zero, `1.` is one, fractions finer than a billionth are rounded away from zero, binary amounts are capped at
//! 2⁶³ − 1. Decimal amounts are unbounded there; here they stop at [`Quantity::LIMIT`], far above anything that a
//! machine has.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Billionths in one.
const NANOS: i128 = 1_000_000_000;

/// The largest amount with a binary suffix, in units (2⁶³ − 1): Kubernetes caps there.
const BINARY_CAP: i128 = i64::MAX as i128;

/// Decimal suffixes with their power of ten, as Kubernetes lists them.
const DECIMAL_SUFFIXES: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];

/// Binary suffixes with their power of two.
const BINARY_SUFFIXES: [(&str, u32); 6] =
    [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

/// Why a text is not a quantity. The messages are Kubernetes' own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// The text does not have the shape of a quantity.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The shape is right, but the suffix is none that exists (`1KK`, `1ki`, `1e`).
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// How a quantity was written, which decides how its canonical form is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Notation {
    /// `5k`, `5`, `5m`.
    Decimal,
    /// `5Ki`.
    Binary,
    /// `5e3`.
    Exponent,
}

/// An exact amount that remembers how it was written. See the module's head.
#[derive(Debug, Clone)]
pub struct Quantity {
    text: String,
    /// The amount in billionths, between `-LIMIT` and `LIMIT` times a billion.
    nanos: i128,
    notation: Notation,
}

impl Quantity {
    /// The largest amount that is told apart from larger ones, in units: 10²⁸.
    pub const LIMIT: i128 = 10_i128.pow(28);

    /// The quantity of `count` bytes, written with the largest binary suffix that is exact (`1Gi`).
    pub fn from_bytes(count: u64) -> Self {
        Self::from_count(i128::from(count), Notation::Binary)
    }

    /// The quantity of `count` whole units, written with the largest decimal suffix that is exact (`2k`).
    pub fn from_units(count: u64) -> Self {
        Self::from_count(i128::from(count), Notation::Decimal)
    }

    fn from_count(count: i128, notation: Notation) -> Self {
        let nanos = count.min(Self::LIMIT) * NANOS;
        Self { text: canonical(nanos, notation), nanos, notation }
    }

    /// What was written, without surrounding blanks.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Kubernetes' canonical form: no fraction, the largest suffix that needs none (`1024Mi` → `1Gi`, `0.5` → `500m`).
    pub fn canonical(&self) -> String {
        canonical(self.nanos, self.notation)
    }

    /// The amount in whole units, rounded away from zero.
    pub fn units(&self) -> i128 {
        divide_away_from_zero(self.nanos, NANOS)
    }

    /// The amount as a count of bytes: whole units rounded up, 0 below zero, `u64::MAX` where it does not fit.
    pub fn bytes(&self) -> u64 {
        u64::try_from(self.units().max(0)).unwrap_or(u64::MAX)
    }

    /// The amount in thousandths, rounded away from zero (`1500` for `1.5` CPUs).
    pub fn millis(&self) -> i128 {
        divide_away_from_zero(self.nanos, NANOS / 1000)
    }

    /// Whether the amount is below zero.
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// Whether the amount is nothing.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }
}

impl Default for Quantity {
    /// Nothing, written `0`.
    fn default() -> Self {
        Self::from_units(0)
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        if text.is_empty() {
            return Err(QuantityError::Format);
        }
        let parts = Parts::split(text)?;
        let scale = Scale::of_suffix(parts.suffix)?;
        let mut nanos = scale.nanos(parts.whole, parts.fraction);
        let mut notation = scale.notation();
        if notation == Notation::Binary {
            nanos = nanos.min(BINARY_CAP * NANOS);
            if 0 < nanos && nanos < NANOS {
                notation = Notation::Decimal;
            }
        }
        if parts.negative {
            nanos = -nanos;
        }
        Ok(Self { text: text.to_owned(), nanos, notation })
    }
}

/// A quantity's text, taken apart: sign, digits before and after the point, suffix.
struct Parts<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Self, QuantityError> {
        let (negative, unsigned) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (whole, rest) = split_digits(unsigned);
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => split_digits(rest),
            None => ("", rest),
        };
        let after_letters = suffix.trim_start_matches(|letter| "eEinumkKMGTP".contains(letter));
        let exponent = after_letters.strip_prefix(['-', '+']).unwrap_or(after_letters);
        if !exponent.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(QuantityError::Format);
        }
        Ok(Self { negative, whole, fraction, suffix })
    }
}

/// The leading ASCII digits of `text`, and what follows them.
fn split_digits(text: &str) -> (&str, &str) {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// What a suffix multiplies by.
#[derive(Clone, Copy)]
enum Scale {
    PowerOfTen(i32),
    PowerOfTwo(u32),
    Exponent(i32),
}

impl Scale {
    fn of_suffix(suffix: &str) -> Result<Self, QuantityError> {
        if let Some((_, power)) = DECIMAL_SUFFIXES.iter().find(|(name, _)| *name == suffix) {
            return Ok(Self::PowerOfTen(*power));
        }
        if let Some((_, power)) = BINARY_SUFFIXES.iter().find(|(name, _)| *name == suffix) {
            return Ok(Self::PowerOfTwo(*power));
        }
        let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
        exponent.parse().map(Self::Exponent).map_err(|_| QuantityError::Suffix)
    }

    fn notation(self) -> Notation {
        match self {
            Self::PowerOfTen(_) => Notation::Decimal,
            Self::PowerOfTwo(_) => Notation::Binary,
            Self::Exponent(_) => Notation::Exponent,
        }
    }

    /// `whole.fraction` times this scale in billionths, rounded up, at most `LIMIT` units. Exact for any number of
    /// digits: the point is moved within the digits, and only the two halves around it are ever computed with.
    fn nanos(self, whole: &str, fraction: &str) -> i128 {
        let (shift, multiplier) = match self {
            Self::PowerOfTen(power) | Self::Exponent(power) => (i64::from(power), NANOS),
            Self::PowerOfTwo(power) => (0, NANOS << power),
        };
        let digits: Vec<i128> =
            whole.bytes().chain(fraction.bytes()).map(|byte| i128::from(byte - b'0')).collect();
        let Some(first) = digits.iter().position(|digit| *digit != 0) else {
            return 0;
        };
        let significant = &digits[first..];
        // Digits before the point once it is moved; may be negative or lie beyond the last digit.
        let point = whole.len() as i64 - first as i64 + shift;
        let limit = Quantity::LIMIT * NANOS;
        if point > 29 {
            return limit;
        }
        let digit =
            |index: i64| usize::try_from(index).ok().and_then(|at| significant.get(at)).copied().unwrap_or(0);
        let integer = (0..point).fold(0_i128, |sum, index| sum * 10 + digit(index));
        // From the last digit to the first after the point, `part` is the floor of `multiplier` × the digits so far
        // read as a fraction. Zeros beyond 40 places can only leave a remainder, which rounds up.
        let mut part = 0_i128;
        let mut remainder = false;
        for index in (point.max(-40)..significant.len() as i64).rev() {
            let sum = multiplier * digit(index) + part;
            remainder |= sum % 10 != 0;
            part = sum / 10;
        }
        integer.saturating_mul(multiplier).saturating_add(part + i128::from(remainder)).min(limit)
    }
}

fn divide_away_from_zero(dividend: i128, divisor: i128) -> i128 {
    dividend / divisor + (dividend % divisor).signum()
}

/// The canonical text of an amount, as Kubernetes prints it.
fn canonical(nanos: i128, notation: Notation) -> String {
    if nanos == 0 {
        return "0".to_owned();
    }
    let whole = nanos % NANOS == 0;
    let small = nanos.abs() < 1024 * NANOS;
    if notation == Notation::Binary && whole && !small {
        let mut units = nanos / NANOS;
        let mut suffix = "";
        for (name, _) in BINARY_SUFFIXES {
            if units % 1024 != 0 {
                break;
            }
            units /= 1024;
            suffix = name;
        }
        return format!("{units}{suffix}");
    }
    let mut mantissa = nanos;
    let mut power = -9;
    let highest = if notation == Notation::Exponent { i32::MAX } else { 18 };
    while mantissa % 1000 == 0 && power < highest {
        mantissa /= 1000;
        power += 3;
    }
    if notation == Notation::Exponent {
        return if power == 0 { mantissa.to_string() } else { format!("{mantissa}e{power}") };
    }
    let suffix = DECIMAL_SUFFIXES.iter().find(|(_, of)| *of == power).map_or("", |(name, _)| name);
    format!("{mantissa}{suffix}")
}

/// Prints what was written; see [`Quantity::canonical`] for the normal form.
impl fmt::Display for Quantity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// Equal amounts are equal, however they were written.
impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Hash for Quantity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.nanos.hash(state);
    }
}

/// Always a string, as Kubernetes writes it back; a number in the input becomes its text.
impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// From a string (blanks around it are dropped, as Kubernetes does) or from a number.
impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrNumber;

        impl Visitor<'_> for TextOrNumber {
            type Value = Quantity;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a quantity such as `1Gi`, `500m` or `2`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Quantity, E> {
                text.trim().parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Quantity, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Quantity, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Quantity, E> {
                self.visit_str(&number.to_string())
            }
        }

        deserializer.deserialize_any(TextOrNumber)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn quantity(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|error| panic!("`{text}`: {error}"))
    }

    #[test]
    fn amounts_and_canonical_forms() {
        // text, billionths, canonical form
        let table: &[(&str, i128, &str)] = &[
            ("0", 0, "0"),
            ("-0", 0, "0"),
            ("+", 0, "0"),
            (".", 0, "0"),
            ("0Gi", 0, "0"),
            ("000", 0, "0"),
            ("1", NANOS, "1"),
            ("+1", NANOS, "1"),
            ("1.", NANOS, "1"),
            (".5", NANOS / 2, "500m"),
            ("0.5", NANOS / 2, "500m"),
            ("500m", NANOS / 2, "500m"),
            ("1500m", NANOS * 3 / 2, "1500m"),
            ("1u", 1000, "1u"),
            ("1n", 1, "1n"),
            ("1000", 1000 * NANOS, "1k"),
            ("1001", 1001 * NANOS, "1001"),
            ("1024", 1024 * NANOS, "1024"),
            ("1k", 1000 * NANOS, "1k"),
            ("1Ki", 1024 * NANOS, "1Ki"),
            ("512Ki", 524_288 * NANOS, "512Ki"),
            ("1023Mi", 1023 * 1024 * 1024 * NANOS, "1023Mi"),
            ("1024Mi", (1_i128 << 30) * NANOS, "1Gi"),
            ("0.5Gi", (1_i128 << 29) * NANOS, "512Mi"),
            ("0.5Ki", 512 * NANOS, "512"),
            ("1.5Ki", 1536 * NANOS, "1536"),
            ("0.1Ki", 102_400_000_000, "102400m"),
            ("1M", 1_000_000 * NANOS, "1M"),
            ("1e3", 1000 * NANOS, "1e3"),
            ("1E3", 1000 * NANOS, "1e3"),
            ("12e2", 1200 * NANOS, "1200"),
            ("1e-3", NANOS / 1000, "1e-3"),
            ("1e+2", 100 * NANOS, "100"),
            ("1E", 10_i128.pow(18) * NANOS, "1E"),
            ("1Ei", (1_i128 << 60) * NANOS, "1Ei"),
            ("9223372036854775807", i128::from(i64::MAX) * NANOS, "9223372036854775807"),
            ("9223372036854775808", (1_i128 << 63) * NANOS, "9223372036854775808"),
            ("-1Gi", -(1_i128 << 30) * NANOS, "-1Gi"),
            ("-500m", -NANOS / 2, "-500m"),
            // Finer than a billionth: rounded away from zero.
            ("0.0000000001", 1, "1n"),
            ("1e-99", 1, "1e-9"),
            ("-0.00000000011", -1, "-1n"),
            ("1.0000000000000000000000000000000000000000000001", NANOS + 1, "1000000001n"),
            ("0.00000000000000000000000000001Ei", 1, "1n"),
            ("1.00000000000000000000000000000000", NANOS, "1"),
            // Capped: binary at 2^63 - 1, decimal at the limit.
            ("8Ei", BINARY_CAP * NANOS, "9223372036854775807"),
            ("100Ei", BINARY_CAP * NANOS, "9223372036854775807"),
            ("1e28", Quantity::LIMIT * NANOS, "10e27"),
            ("1e29", Quantity::LIMIT * NANOS, "10e27"),
            ("1e2147483647", Quantity::LIMIT * NANOS, "10e27"),
            ("99999999999999999999999999999999999999999999999", Quantity::LIMIT * NANOS, "10000000000E"),
        ];
        for (text, nanos, canonical) in table {
            let quantity = quantity(text);
            assert_eq!(quantity.nanos, *nanos, "amount of `{text}`");
            assert_eq!(quantity.canonical(), *canonical, "canonical form of `{text}`");
            assert_eq!(quantity.to_string(), *text);
        }
    }

    #[test]
    fn what_is_no_quantity() {
        let table = [
            ("", QuantityError::Format),
            (" ", QuantityError::Format),
            ("lots", QuantityError::Format),
            ("1GB", QuantityError::Format),
            ("1 Gi", QuantityError::Format),
            ("1Gi ", QuantityError::Format),
            ("--1", QuantityError::Suffix),
            ("1.2.3", QuantityError::Format),
            ("1,5", QuantityError::Format),
            ("1Gi5x", QuantityError::Format),
            ("1é", QuantityError::Format),
            ("1K", QuantityError::Suffix),
            ("1ki", QuantityError::Suffix),
            ("1KK", QuantityError::Suffix),
            ("1e", QuantityError::Suffix),
            ("1Gi5", QuantityError::Suffix),
            ("1i", QuantityError::Suffix),
            ("1e99999999999", QuantityError::Suffix),
        ];
        for (text, error) in table {
            assert_eq!(text.parse::<Quantity>().unwrap_err(), error, "`{text}`");
        }
        assert_eq!(
            QuantityError::Format.to_string(),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        );
    }

    #[test]
    fn rounding_to_units_and_thousandths() {
        // text, units, bytes, thousandths
        let table: &[(&str, i128, u64, i128)] = &[
            ("1", 1, 1, 1000),
            ("1001m", 2, 2, 1001),
            ("0.1n", 1, 1, 1),
            ("1.0001", 2, 2, 1001),
            ("-1500m", -2, 0, -1500),
            ("1Gi", 1 << 30, 1 << 30, 1000 << 30),
            ("18446744073709551615", i128::from(u64::MAX), u64::MAX, i128::from(u64::MAX) * 1000),
            ("18446744073709551616", i128::from(u64::MAX) + 1, u64::MAX, (i128::from(u64::MAX) + 1) * 1000),
        ];
        for (text, units, bytes, millis) in table {
            let quantity = quantity(text);
            assert_eq!(
                (quantity.units(), quantity.bytes(), quantity.millis()),
                (*units, *bytes, *millis),
                "`{text}`"
            );
        }
    }

    #[test]
    fn equality_is_of_amounts() {
        assert_eq!(quantity("1Gi"), quantity("1024Mi"));
        assert_ne!(quantity("1Gi"), quantity("1G"));
        assert!(quantity("1n") > quantity("0"));
        assert!(quantity("9223372036854775808") > quantity("9223372036854775807"));
    }

    #[test]
    fn made_from_counts() {
        assert_eq!(Quantity::from_bytes(4 << 30).as_str(), "4Gi");
        assert_eq!(Quantity::from_bytes(1000).as_str(), "1k");
        assert_eq!(Quantity::from_units(4000).as_str(), "4k");
        assert_eq!(Quantity::from_bytes(u64::MAX).bytes(), u64::MAX);
    }

    #[test]
    fn from_text_or_number() {
        let read = |json: &str| serde_json::from_str::<Quantity>(json);
        assert_eq!(read("\" 1Gi \"").unwrap().as_str(), "1Gi");
        assert_eq!(read("2").unwrap().as_str(), "2");
        assert_eq!(read("-2").unwrap().as_str(), "-2");
        assert_eq!(read("0.1").unwrap().millis(), 100);
        assert_eq!(read("1e3").unwrap(), quantity("1k"));
        assert_eq!(serde_json::to_string(&read("\"1024Mi\"").unwrap()).unwrap(), "\"1024Mi\"");
        let error = read("\"1GB\"").unwrap_err().to_string();
        assert!(error.starts_with(&QuantityError::Format.to_string()), "{error}");
        assert!(read("true").is_err());
    }

    /// A text, and its amount in billionths worked out by plain integer arithmetic.
    fn text_and_nanos() -> impl Strategy<Value = (String, i128)> {
        let suffixes = prop_oneof![
            Just(("n", 1_i128)),
            Just(("u", 1000)),
            Just(("m", NANOS / 1000)),
            Just(("", NANOS)),
            Just(("k", NANOS * 1000)),
            Just(("M", NANOS * 1_000_000)),
            Just(("e2", NANOS * 100)),
            Just(("e-4", NANOS / 10_000)),
            Just(("Ki", NANOS << 10)),
            Just(("Mi", NANOS << 20)),
            Just(("Gi", NANOS << 30)),
        ];
        (any::<bool>(), any::<u32>(), proptest::option::of(0_u32..1_000_000), suffixes).prop_map(
            |(negative, whole, fraction, (suffix, multiplier))| {
                let sign = if negative { "-" } else { "" };
                let (text, millionths) = match fraction {
                    Some(part) => (
                        format!("{sign}{whole}.{part:06}{suffix}"),
                        i128::from(whole) * 1_000_000 + i128::from(part),
                    ),
                    None => (format!("{sign}{whole}{suffix}"), i128::from(whole) * 1_000_000),
                };
                let product = millionths * multiplier;
                let mut nanos = product / 1_000_000;
                if product % 1_000_000 != 0 {
                    nanos += 1;
                }
                if suffix.ends_with('i') {
                    nanos = nanos.min(i128::from(i64::MAX) * NANOS);
                }
                (text, if negative { -nanos } else { nanos })
            },
        )
    }

    proptest! {
        #[test]
        fn agrees_with_integer_arithmetic((text, nanos) in text_and_nanos()) {
            let quantity = quantity(&text);
            prop_assert_eq!(quantity.nanos, nanos);
            prop_assert_eq!(quantity.as_str(), text.as_str());
        }

        #[test]
        fn order_is_that_of_the_amounts((a, a_nanos) in text_and_nanos(), (b, b_nanos) in text_and_nanos()) {
            prop_assert_eq!(quantity(&a).cmp(&quantity(&b)), a_nanos.cmp(&b_nanos));
        }

        #[test]
        fn canonical_form_keeps_the_amount((text, nanos) in text_and_nanos()) {
            let canonical = quantity(&text).canonical();
            let again = quantity(&canonical);
            prop_assert_eq!(again.nanos, nanos, "`{}` became `{}`", text, canonical);
            prop_assert_eq!(again.canonical(), canonical);
        }

        #[test]
        fn serde_keeps_the_text((text, _) in text_and_nanos()) {
            let json = serde_json::to_string(&quantity(&text)).unwrap();
            let again: Quantity = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(again.as_str(), text.as_str());
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,12}") {
            if let Ok(quantity) = text.parse::<Quantity>() {
                prop_assert!(quantity.nanos.abs() <= Quantity::LIMIT * NANOS);
            }
        }

        #[test]
        fn anything_of_the_right_letters_is_read_or_refused(text in "[-+0-9.eEinumkKMGTP]{0,12}") {
            if let Ok(quantity) = text.parse::<Quantity>() {
                prop_assert_eq!(quantity.canonical().parse::<Quantity>().unwrap().nanos, quantity.nanos);
            }
        }
    }
}
