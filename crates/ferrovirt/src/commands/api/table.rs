//! Tables as servers send them (`meta.k8s.io/v1` `Table`), and as they are printed.

use launcher::console::printable;
use serde_json::Value;

use super::text;

/// What stands between two columns.
const GAP: usize = 3;

/// Which columns are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// Those for `-o wide` too.
    pub is_wide: bool,
    /// The objects' namespace, as the first.
    pub has_namespace: bool,
    /// The columns' names, as the first line.
    pub has_header: bool,
}

/// Prints tables of one kind, piece by piece: widths are kept, so that what a watch brings stands below what was there.
#[derive(Debug)]
pub struct Printer {
    shown: Shown,
    /// `virtualmachine.kubevirt.io/`, before names, where several kinds are printed.
    prefix: String,
    /// Which cells of a row are shown.
    cells: Vec<usize>,
    rows: Option<Rows>,
}

impl Printer {
    /// Nothing printed yet.
    pub fn new(shown: Shown, prefix: String) -> Printer {
        Printer { shown, prefix, cells: Vec::new(), rows: None }
    }

    /// The lines of a table; those of an empty one are none.
    pub fn lines(&mut self, table: &Value) -> String {
        self.columns(table);
        let rows: Vec<Vec<String>> =
            table["rows"].as_array().into_iter().flatten().map(|row| self.row(row)).collect();
        self.rows.as_mut().map(|under| under.lines(&rows)).unwrap_or_default()
    }

    /// Takes the columns of the first table that has some; a watch sends them once.
    fn columns(&mut self, table: &Value) {
        let definitions = table["columnDefinitions"].as_array().filter(|list| !list.is_empty());
        let Some(definitions) = definitions.filter(|_| self.rows.is_none()) else { return };
        let mut names = Vec::new();
        if self.shown.has_namespace {
            names.push("NAMESPACE".to_owned());
        }
        for (index, column) in definitions.iter().enumerate() {
            if self.shown.is_wide || column["priority"].as_i64().unwrap_or_default() == 0 {
                names.push(printable(text(column, "/name").to_uppercase().as_bytes()));
                self.cells.push(index);
            }
        }
        self.rows = Some(Rows { widths: vec![0; names.len()], names, is_headed: !self.shown.has_header });
    }

    fn row(&self, row: &Value) -> Vec<String> {
        let mut cells = Vec::with_capacity(self.cells.len() + 1);
        if self.shown.has_namespace {
            cells.push(printable(text(row, "/object/metadata/namespace").as_bytes()));
        }
        for &index in &self.cells {
            let prefix = if index == 0 { self.prefix.as_str() } else { "" };
            cells.push(format!("{prefix}{}", cell(&row["cells"][index])));
        }
        cells
    }
}

/// One cell: the first line of a text, cut as kubectl cuts it.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => match text.split_once(['\n', '\r', '\x0c']) {
            Some((first, _)) => format!("{}...", printable(first.as_bytes())),
            None => printable(text.as_bytes()),
        },
        other => other.to_string(),
    }
}

/// Rows of text under names, piece by piece as with [`Printer`].
#[derive(Debug)]
pub struct Rows {
    names: Vec<String>,
    widths: Vec<usize>,
    is_headed: bool,
}

impl Rows {
    /// Nothing printed yet.
    pub fn new(names: &[&str]) -> Rows {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Rows { widths: vec![0; names.len()], names, is_headed: false }
    }

    /// The same rows, which no names stand over.
    pub fn without_names(self) -> Rows {
        Rows { is_headed: true, ..self }
    }

    /// The lines of rows, the first of them under the names; of none there are none.
    pub fn lines(&mut self, rows: &[Vec<String>]) -> String {
        if rows.is_empty() {
            return String::new();
        }
        let heading = (!self.is_headed).then_some(&self.names);
        self.is_headed = true;
        let lines: Vec<&Vec<String>> = heading.into_iter().chain(rows).collect();
        for line in &lines {
            for (width, cell) in self.widths.iter_mut().zip(line.iter()) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut out = String::new();
        for line in lines {
            put(&mut out, line, &self.widths);
        }
        out
    }
}

fn put(out: &mut String, cells: &[impl AsRef<str>], widths: &[usize]) {
    for (index, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let cell = cell.as_ref();
        out.push_str(cell);
        // What is last ends its line.
        if index + 1 < cells.len() {
            out.extend(std::iter::repeat_n(' ', width - cell.chars().count().min(*width) + GAP));
        }
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PLAIN: Shown = Shown { is_wide: false, has_namespace: false, has_header: true };

    fn table() -> Value {
        json!({
            "columnDefinitions": [
                {"name": "Name", "priority": 0}, {"name": "Ready", "priority": 0}, {"name": "Node", "priority": 1},
            ],
            "rows": [
                {"cells": ["a", true, "n"], "object": {"metadata": {"namespace": "x"}}},
                {"cells": ["long-name", null, "two\nlines"], "object": {"metadata": {"namespace": "default"}}},
            ],
        })
    }

    #[test]
    fn a_table_is_printed_as_kubectl_prints_it() {
        assert_eq!(
            Printer::new(PLAIN, String::new()).lines(&table()),
            "NAME        READY\na           true\nlong-name   \n"
        );
        let wide = Shown { is_wide: true, has_namespace: true, ..PLAIN };
        assert_eq!(
            Printer::new(wide, "vm/".to_owned()).lines(&table()),
            "NAMESPACE   NAME           READY   NODE\nx           vm/a           true    n\ndefault     vm/long-name   \
             \u{20}       two...\n"
        );
        let bare = Shown { has_header: false, ..PLAIN };
        assert_eq!(Printer::new(bare, String::new()).lines(&table()), "a           true\nlong-name   \n");
    }

    #[test]
    fn what_a_watch_brings_stands_below_what_was_there() {
        let mut printer = Printer::new(PLAIN, String::new());
        assert_eq!(
            printer.lines(&json!({"columnDefinitions": table()["columnDefinitions"], "rows": []})),
            ""
        );
        printer.lines(&table());
        let event = json!({"rows": [{"cells": ["b", false, ""]}]});
        assert_eq!(printer.lines(&event), "b           false\n");
    }

    #[test]
    fn a_cell_does_not_drive_the_terminal() {
        let table = json!({"columnDefinitions": [{"name": "Name"}], "rows": [{"cells": ["a\u{1b}[31mb"]}]});
        let lines = Printer::new(PLAIN, String::new()).lines(&table);
        assert!(!lines.contains('\x1b'), "{lines:?}");
        // A row without a cell, as a careless server has it.
        let table = json!({"columnDefinitions": [{"name": "Name"}], "rows": [{}]});
        assert_eq!(Printer::new(PLAIN, String::new()).lines(&table), "NAME\n\n");
    }
}
