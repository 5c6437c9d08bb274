//! Reading a kernel command line: is the guest's output going where we listen?
//!
//! The grammar is the kernel's own (`lib/cmdline.c`, `next_arg`): words are separated by white space, double quotes
//! keep white space inside a word, and everything after a lone `--` belongs to init.

/// A word of a command line.
struct Word {
    /// Where it begins, in bytes.
    start: usize,
    /// Its text, quotes removed.
    text: String,
}

/// All words of `command_line`.
fn words(command_line: &str) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let mut in_word = false;
    let mut in_quotes = false;
    for (position, character) in command_line.char_indices() {
        if character.is_whitespace() && !in_quotes {
            in_word = false;
            continue;
        }
        if !in_word {
            in_word = true;
            words.push(Word { start: position, text: String::new() });
        }
        if character == '"' {
            in_quotes = !in_quotes;
        } else if let Some(word) = words.last_mut() {
            word.text.push(character);
        }
    }
    words
}

/// The words of `command_line` that the kernel itself reads, quotes removed.
pub fn kernel_words(command_line: &str) -> Vec<String> {
    words(command_line).into_iter().map(|word| word.text).take_while(|text| text != "--").collect()
}

/// What a command line says about the serial console that the launcher reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SerialConsole {
    /// A `console=ttyS0` or an early console on the first UART: output is visible.
    Usable,
    /// No `console=` at all: the kernel writes to the (absent) screen.
    Missing,
    /// Only consoles that this VM does not have, as written.
    Elsewhere(Vec<String>),
}

/// Whether the kernel's messages reach the first serial port (`ttyS0`, I/O port 0x3f8).
///
/// Understood are `console=ttyS0[,options]`, `earlyprintk=[serial,]ttyS0…`/`earlyprintk=serial` and
/// `earlycon=uart[8250],io,0x3f8…`, as kernel-parameters.txt of Linux describes them.
pub fn serial_console(command_line: &str) -> SerialConsole {
    let mut elsewhere = Vec::new();
    for word in kernel_words(command_line) {
        let Some((key, value)) = word.split_once('=') else {
            continue;
        };
        let first = value.split(',').next().unwrap_or("");
        let usable = match key {
            "console" => first == "ttyS0" || (first.starts_with("uart") && value.contains("0x3f8")),
            "earlyprintk" => value.contains("ttyS0") || first == "serial",
            "earlycon" => first.starts_with("uart") && value.contains("0x3f8"),
            _ => continue,
        };
        if usable {
            return SerialConsole::Usable;
        }
        if key == "console" {
            elsewhere.push(word);
        }
    }
    if elsewhere.is_empty() { SerialConsole::Missing } else { SerialConsole::Elsewhere(elsewhere) }
}

/// The warning for a command line whose output nobody will see; `None` where there is nothing to say.
pub fn console_warning(command_line: &str) -> Option<String> {
    match serial_console(command_line) {
        SerialConsole::Usable => None,
        SerialConsole::Missing => Some(
            "the kernel command line names no `console=`: the guest's messages will not be seen \
             (add `console=ttyS0` to kernelArgs, or use `--append console=ttyS0`)"
                .to_owned(),
        ),
        SerialConsole::Elsewhere(words) => Some(format!(
            "the kernel command line sends its console to `{}`, which this VM does not have: the guest's messages \
             will not be seen (add `console=ttyS0` to kernelArgs, or use `--append console=ttyS0`)",
            words.join("`, `")
        )),
    }
}

/// `base` with the one-off words of `extra` put behind it, before the kernel's `--` if there is one.
pub fn append(base: &str, extra: &str) -> String {
    let extra = extra.trim();
    if extra.is_empty() {
        return base.to_owned();
    }
    let end = words(base).into_iter().find(|word| word.text == "--").map_or(base.len(), |word| word.start);
    let (kernel, init) = base.split_at(end);
    [kernel.trim_end(), extra, init].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_follow_the_kernels_quoting() {
        for (line, expected) in [
            ("", vec![]),
            ("  quiet\tro ", vec!["quiet", "ro"]),
            (r#"dyndbg="file a.c +p" quiet"#, vec!["dyndbg=file a.c +p", "quiet"]),
            ("quiet -- console=ttyS0", vec!["quiet"]),
            ("a--b", vec!["a--b"]),
        ] {
            assert_eq!(kernel_words(line), expected, "{line:?}");
        }
    }

    #[test]
    fn only_the_first_serial_port_is_listened_to() {
        use SerialConsole::*;
        for (line, expected) in [
            ("console=ttyS0", Usable),
            ("console=ttyS0,115200n8", Usable),
            ("console=tty0 console=ttyS0", Usable),
            ("earlyprintk=serial", Usable),
            ("earlyprintk=ttyS0,115200", Usable),
            ("earlycon=uart8250,io,0x3f8", Usable),
            ("", Missing),
            ("quiet root=/dev/vda1", Missing),
            ("xconsole=ttyS0", Missing),
            ("console=ttyS01", Elsewhere(vec!["console=ttyS01".into()])),
            ("console=tty0 console=hvc0", Elsewhere(vec!["console=tty0".into(), "console=hvc0".into()])),
            ("quiet -- console=ttyS0", Missing),
        ] {
            assert_eq!(serial_console(line), expected, "{line:?}");
        }
    }

    #[test]
    fn the_warning_names_what_was_written_and_the_way_out() {
        assert_eq!(console_warning("console=ttyS0 quiet"), None);
        let warning = console_warning("console=ttyAMA0").expect("warns");
        assert!(warning.contains("`console=ttyAMA0`") && warning.contains("console=ttyS0"), "{warning}");
    }

    #[test]
    fn appended_words_stay_before_the_arguments_of_init() {
        assert_eq!(append("console=ttyS0", "quiet"), "console=ttyS0 quiet");
        assert_eq!(append("", " quiet "), "quiet");
        assert_eq!(append("console=ttyS0", ""), "console=ttyS0");
        assert_eq!(append("console=ttyS0 -- single", "quiet"), "console=ttyS0 quiet -- single");
        assert_eq!(append("console=ttyS0 --", "quiet"), "console=ttyS0 quiet --");
        assert_eq!(append("a=\"b -- c\"", "quiet"), "a=\"b -- c\" quiet");
    }
}
