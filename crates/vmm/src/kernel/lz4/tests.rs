#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::super::tests::lz4_legacy;
use super::*;

/// Gives a few bytes at a time, so that everything is once cut everywhere.
struct Trickle<'a>(&'a [u8], usize);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.0.len().min(buffer.len()).min(self.1);
        buffer[..length].copy_from_slice(&self.0[..length]);
        self.0 = &self.0[length..];
        Ok(length)
    }
}

fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    LegacyReader::new(packed).read_to_end(&mut unpacked)?;
    Ok(unpacked)
}

/// A frame of one block.
fn frame(block: &[u8]) -> Vec<u8> {
    [&LEGACY_MAGIC[..], &(block.len() as u32).to_le_bytes(), block].concat()
}

/// The bytes behind a token that make a length of 15 and `more`.
fn long_length(more: usize) -> Vec<u8> {
    let mut bytes = vec![255; more / 255];
    bytes.push((more % 255) as u8);
    bytes
}

/// One step of an encoder that knows what it makes: literals, then a match.
#[derive(Debug, Clone)]
struct Sequence {
    literals: Vec<u8>,
    distance: u16,
    length: usize,
}

fn sequence() -> impl Strategy<Value = Sequence> {
    let literals = prop_oneof![
        8 => proptest::collection::vec(any::<u8>(), 0..40),
        1 => (any::<u8>(), 200..70_000usize).prop_map(|(byte, length)| {
            (0..length).map(|index| byte.wrapping_add((index * index / 7) as u8)).collect()
        }),
    ];
    let distance = prop_oneof![4 => 1..40u16, 1 => Just(u16::MAX), 2 => any::<u16>()];
    let length = prop_oneof![8 => 4..40usize, 2 => 4..600usize, 1 => 4..300_000usize];
    (literals, distance, length).prop_map(|(literals, distance, length)| Sequence {
        literals,
        distance,
        length,
    })
}

/// The sequences as a block of lz4, and what they stand for.
fn encode(sequences: &[Sequence], last: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut packed, mut plain) = (Vec::new(), Vec::<u8>::new());
    let literals = |packed: &mut Vec<u8>, literals: &[u8], match_code: usize| {
        packed.push((literals.len().min(15) << 4 | match_code) as u8);
        if literals.len() >= 15 {
            packed.extend(long_length(literals.len() - 15));
        }
        packed.extend(literals);
    };
    for Sequence { literals: copied, distance, length } in sequences {
        plain.extend(copied);
        if plain.is_empty() {
            continue;
        }
        let distance = usize::from(*distance).clamp(1, plain.len());
        let code = length - 4;
        literals(&mut packed, copied, code.min(15));
        packed.extend((distance as u16).to_le_bytes());
        if code >= 15 {
            packed.extend(long_length(code - 15));
        }
        for _ in 0..*length {
            plain.push(plain[plain.len() - distance]);
        }
    }
    literals(&mut packed, last, 0);
    plain.extend(last);
    (packed, plain)
}

#[test]
fn blocks_follow_each_other_and_each_has_its_own_history() {
    let two = [frame(b"\x30abc"), 4u32.to_le_bytes().to_vec(), b"\x30def".to_vec()].concat();
    assert_eq!(unpack(&two).unwrap(), b"abcdef");
    let reaching = [frame(b"\x30abc"), 7u32.to_le_bytes().to_vec(), b"\x30def\x04\0\0".to_vec()].concat();
    assert_eq!(unpack(&reaching).unwrap_err().to_string(), "an lz4 match reaches back before its block");
}

#[test]
fn what_is_damaged_is_an_error() {
    for (packed, expected) in [
        (b"\x28\xb5\x2f\xfd".to_vec(), "it does not start as lz4 data does"),
        (Vec::new(), "it does not start as lz4 data does"),
        (frame(b""), "an lz4 block has a length that none can have"),
        ([LEGACY_MAGIC, [0xff; 4]].concat(), "an lz4 block has a length that none can have"),
        (LEGACY_MAGIC.iter().copied().chain([1, 0]).collect(), "unexpected end of file"),
        (frame(b"\x10"), "an lz4 block ends within its literals"),
        (frame(b"\xf0\xff"), "an lz4 block ends within a sequence"),
        (frame(b"\x10a\x01"), "an lz4 block ends within a sequence"),
        (frame(b"\x10a\x00\x00"), "an lz4 match reaches back before its block"),
        (frame(b"\x10a\x02\x00"), "an lz4 match reaches back before its block"),
        (frame(b"\x00\x01\x00"), "an lz4 match reaches back before its block"),
        (
            [LEGACY_MAGIC.to_vec(), 9u32.to_le_bytes().to_vec(), b"\x30abc".to_vec()].concat(),
            "unexpected end of file",
        ),
        (
            [LEGACY_MAGIC.to_vec(), 9u32.to_le_bytes().to_vec(), b"\x80abc".to_vec()].concat(),
            "unexpected end of file",
        ),
    ] {
        let error = unpack(&packed).unwrap_err();
        assert_eq!(error.to_string(), expected, "{packed:02x?}");
    }
}

/// One byte of input is up to 255 of output: a bomb goes no further than a block.
#[test]
fn a_block_unpacks_to_no_more_than_eight_megabytes() {
    let of_length = |length: usize| {
        let block = [b"\x1fa\x01\0".to_vec(), long_length(length - 1 - 15 - 4)].concat();
        io::copy(&mut LegacyReader::new(&frame(&block)[..]), &mut io::sink())
    };
    assert_eq!(of_length(MAX_BLOCK_BYTES).unwrap(), MAX_BLOCK_BYTES as u64);
    let error = of_length(MAX_BLOCK_BYTES + 1).unwrap_err();
    assert_eq!(error.to_string(), "an lz4 block unpacks to more than 8 MiB");
}

#[test]
fn what_the_window_has_moved_over_is_still_reached() {
    // More than the window of literals, then a match as far back as can be.
    let literals: Vec<u8> = (0..700_000u32)
        .map(|index| (index.wrapping_mul(0x9e37_79b9).wrapping_mul(index | 1) >> 24) as u8)
        .collect();
    let far = Sequence { literals, distance: u16::MAX, length: 400_000 };
    let (block, plain) = encode(&[far], b"end");
    assert!(unpack(&frame(&block)).unwrap() == plain);
    assert!(unpack(&lz4_legacy(&plain)).unwrap() == plain);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_an_encoder_makes_is_what_it_stands_for(
        sequences in proptest::collection::vec(sequence(), 0..30),
        last in proptest::collection::vec(any::<u8>(), 0..40),
        trickle in prop_oneof![1..20usize, Just(usize::MAX)],
    ) {
        let (block, plain) = encode(&sequences, &last);
        prop_assume!(plain.len() <= MAX_BLOCK_BYTES);
        let packed = frame(&block);
        let mut unpacked = Vec::new();
        LegacyReader::new(Trickle(&packed, trickle)).read_to_end(&mut unpacked).unwrap();
        prop_assert!(unpacked == plain);
    }

    #[test]
    fn damaged_blocks_never_panic(
        sequences in proptest::collection::vec(sequence(), 0..6),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..12),
        length in any::<proptest::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let (block, _) = encode(&sequences, b"end");
        let mut packed = frame(&block);
        for (index, value) in changes {
            let length = packed.len();
            packed[index.index(length)] = value;
        }
        if cut {
            packed.truncate(length.index(packed.len()));
        }
        let _ = unpack(&packed);
    }

    #[test]
    fn random_blocks_never_panic(block in proptest::collection::vec(any::<u8>(), 0..4096)) {
        let _ = unpack(&frame(&block));
        let _ = unpack(&block);
    }
}
