//! A minimal Markdown parser: tables, headings and links, without code.

/// A table: its head and its rows, cell by cell.
pub struct Table {
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// The lines outside fenced code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_fence && !is_code
    })
}

fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(
        inner
            .split('|')
            .map(|cell| cell.trim().to_owned())
            .collect(),
    )
}

pub fn tables(text: &str) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    let mut is_open = false;
    for line in prose(text) {
        match cells(line) {
            None => is_open = false,
            Some(head) if !is_open => {
                is_open = true;
                let rows = Vec::new();
                tables.push(Table { head, rows });
            }
            Some(row) if row.iter().all(|cell| cell.starts_with("---")) => {}
            Some(row) => tables.last_mut().expect("an open table").rows.push(row),
        }
    }
    tables
}

/// Returns the table whose head begins with these cells.
///
/// # Panics
/// If there is not exactly one.
pub fn table(text: &str, head: &[&str]) -> Vec<Vec<String>> {
    let mut found = tables(text).into_iter().filter(|table| {
        let cells = table.head.iter().take(head.len());
        cells.eq(head)
    });
    let table = found.next();
    assert!(found.next().is_none(), "there are two tables {head:?}");
    table
        .unwrap_or_else(|| panic!("there is no table {head:?}"))
        .rows
}

/// A cell without its backticks.
pub fn plain(cell: &str) -> &str {
    cell.trim_matches('`')
}

/// The link targets within the project.
pub fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(text) {
        let line = without_code(line);
        for (at, _) in line.match_indices("](") {
            let target = line[at + 2..].split(')').next().unwrap_or_default();
            let target = target.split(' ').next().unwrap_or_default();
            let is_outside = target.contains("://") || target.starts_with("mailto:");
            if !is_outside {
                found.push(target.to_owned());
            }
        }
    }
    found
}

fn without_code(line: &str) -> String {
    let outside = line.split('`').step_by(2);
    outside.collect::<Vec<_>>().join(" ")
}

/// The anchors of the headings, as GitHub generates them.
pub fn anchors(text: &str) -> Vec<String> {
    let headings = prose(text).filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
            _ => None,
        });
        kept.collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn markdown_tables_in_code_blocks_are_ignored() {
    let text = "```\n| a | b |\n```\n\n| a | b |\n|---|---|\n| `1` | 2 |\n\n| a | c |\n|---|---|\n";
    assert_eq!(tables(text).len(), 2);
    assert_eq!(table(text, &["a", "b"]), [["`1`", "2"]]);
    assert!(table(text, &["a", "c"]).is_empty());
    assert_eq!(plain("`1`"), "1");
    for head in [&["a"][..], &["x"]] {
        assert!(std::panic::catch_unwind(|| table(text, head)).is_err());
    }
}

#[test]
fn markdown_links_and_anchors_are_parsed() {
    let text = "# One `two`, three\n[a](b.md#c) `[x](y)` [d](https://e) [f](#g \"h\")\n```\n# no [x](y)\n```";
    assert_eq!(links(text), ["b.md#c", "#g"]);
    assert_eq!(anchors(text), ["one-two-three"]);
}
