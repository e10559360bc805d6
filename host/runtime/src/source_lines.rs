//! Source lines of a module's code, from the line tables of its debugging information.
//!
//! They are read where the module is compiled, within the limits of that process. The host gets a
//! table to search, and parses no debugging information: a frame of a backtrace costs one binary
//! search.

use gimli::{DebugLineOffset, Dwarf, EndianSlice, IncompleteLineProgram, LineProgramHeader};
use gimli::{LineRow, LittleEndian, SectionId};
use std::collections::HashMap;
use wasmparser::{Parser, Payload};

/// Maximum number of rows; 12 bytes each. The rest of the code has no lines.
const ROWS_MAX: usize = 512 * 1024;
/// Maximum number of rows that are looked at, as most of them are merged.
const ROWS_READ_MAX: usize = 16 * ROWS_MAX;
/// Maximum number of files. Code of others has no lines.
const FILES_MAX: usize = 4 * 1024;
/// Maximum length of a file's path; of a longer one the end is kept.
const PATH_BYTES_MAX: usize = 128;
/// Length of an encoded row.
const ROW_BYTES: usize = 12;
/// The size of an address in WebAssembly's debugging information.
const ADDRESS_BYTES: u8 = 4;

type Section<'w> = EndianSlice<'w, LittleEndian>;

/// Which line a piece of code comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CodeRow {
    /// Where the code begins, in bytes from the start of the module.
    offset: u32,
    /// Index of the file.
    file: u32,
    /// Line number from 1; 0 if it is unknown.
    line: u32,
}

/// The source lines of a module, by the offset of the code in it. Empty without debugging information.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SourceLines {
    files: Vec<Box<str>>,
    /// In the order of their offsets.
    rows: Vec<CodeRow>,
}

impl SourceLines {
    /// Reads the line tables of a module. A malformed one ends there: they only explain traps.
    pub(super) fn read(wasm: &[u8]) -> SourceLines {
        let mut code = 0..0;
        let mut sections: HashMap<&str, &[u8]> = HashMap::new();
        for payload in Parser::new(0).parse_all(wasm).map_while(Result::ok) {
            match payload {
                Payload::CodeSectionStart { range, .. } => code = range,
                Payload::CustomSection(section) => {
                    sections.insert(section.name(), section.data());
                }
                _ => {}
            }
        }
        if !sections.contains_key(SectionId::DebugLine.name()) {
            return SourceLines::default();
        }
        let section = |id: SectionId| {
            let data = sections.get(id.name()).copied().unwrap_or_default();
            Ok::<_, gimli::Error>(Section::new(data, LittleEndian))
        };
        let Ok(dwarf) = Dwarf::load(section) else {
            return SourceLines::default();
        };
        let mut reader = LineReader {
            dwarf: &dwarf,
            code,
            files: HashMap::new(),
            lines: SourceLines::default(),
            rows_left: ROWS_READ_MAX,
        };
        // What was read before an error is kept.
        let _ = reader.read_all();
        reader.lines.rows.sort_by_key(|row| row.offset);
        reader.lines
    }

    /// Returns the file and the line of the code at this offset in the module.
    pub(super) fn find(&self, offset: usize) -> Option<(&str, u32)> {
        let offset = u32::try_from(offset).ok()?;
        let after = self.rows.partition_point(|row| row.offset <= offset);
        let row = self.rows.get(after.checked_sub(1)?)?;
        let file = self.files.get(usize::try_from(row.file).ok()?)?;
        (row.line > 0).then_some((file, row.line))
    }

    /// Returns its size in memory.
    pub(super) fn bytes(&self) -> usize {
        let files: usize = self.files.iter().map(|file| file.len() + 16).sum();
        self.rows.len() * ROW_BYTES + files
    }

    /// Appends the encoded lines.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let number = |out: &mut Vec<u8>, number: usize| {
            // All counts and lengths are bounded far below.
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            out.extend_from_slice(&number.to_le_bytes());
        };
        number(out, self.files.len());
        for file in &self.files {
            number(out, file.len());
            out.extend_from_slice(file.as_bytes());
        }
        number(out, self.rows.len());
        out.reserve(self.rows.len() * ROW_BYTES);
        for row in &self.rows {
            for part in [row.offset, row.file, row.line] {
                out.extend_from_slice(&part.to_le_bytes());
            }
        }
    }

    /// Decodes what [`encode`](SourceLines::encode) appended, and returns the rest too; `None` if
    /// it is malformed.
    pub(super) fn decode(bytes: &[u8]) -> Option<(SourceLines, &[u8])> {
        let (count, mut rest) = number(bytes)?;
        let mut files = Vec::new();
        for _ in 0..count {
            let (len, after) = number(rest)?;
            let (file, after) = after.split_at_checked(len)?;
            files.push(std::str::from_utf8(file).ok()?.into());
            rest = after;
        }
        let (count, rest) = number(rest)?;
        let (rows, rest) = rest.split_at_checked(count.checked_mul(ROW_BYTES)?)?;
        let (rows, _) = rows.as_chunks::<ROW_BYTES>();
        let rows = rows.iter().map(|row| {
            let [a, b, c, d, e, f, g, h, i, j, k, l] = *row;
            CodeRow {
                offset: u32::from_le_bytes([a, b, c, d]),
                file: u32::from_le_bytes([e, f, g, h]),
                line: u32::from_le_bytes([i, j, k, l]),
            }
        });
        let rows = rows.collect();
        Some((SourceLines { files, rows }, rest))
    }
}

/// Splits off a number.
fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    let number = usize::try_from(u32::from_le_bytes(*number)).ok()?;
    Some((number, rest))
}

/// Reads all line tables of a module.
struct LineReader<'w> {
    dwarf: &'w Dwarf<Section<'w>>,
    /// The code section's range in the module. Addresses count from its start.
    code: std::ops::Range<usize>,
    /// Indices of the files by path.
    files: HashMap<String, u32>,
    lines: SourceLines,
    rows_left: usize,
}

impl LineReader<'_> {
    /// Reads one table after the other, so that each is read once, whatever refers to it.
    fn read_all(&mut self) -> gimli::Result<()> {
        let mut offset = 0;
        let tables = &self.dwarf.debug_line;
        while self.rows_left > 0 && self.lines.rows.len() < ROWS_MAX {
            let table = tables.program(DebugLineOffset(offset), ADDRESS_BYTES, None, None)?;
            let header = table.header();
            let initial = usize::from(header.format().initial_length_size());
            let len = header.unit_length().saturating_add(initial);
            self.read_table(table)?;
            offset = offset.saturating_add(len);
        }
        Ok(())
    }

    fn read_table(&mut self, table: IncompleteLineProgram<Section<'_>>) -> gimli::Result<()> {
        let mut files: HashMap<u64, Option<u32>> = HashMap::new();
        let mut rows = table.rows();
        // Rows of one function are together. Those of functions that the linker removed have an
        // address that is no code.
        let mut sequence: Vec<CodeRow> = Vec::new();
        while let Some((header, row)) = rows.next_row()? {
            self.rows_left = self.rows_left.saturating_sub(1);
            if self.rows_left == 0 || self.lines.rows.len() + sequence.len() >= ROWS_MAX {
                return Ok(());
            }
            let file = *files
                .entry(row.file_index())
                .or_insert_with(|| self.file(header, row));
            let code_row = self.row(row, file);
            let is_new = |last: &CodeRow| (last.file, last.line) != (code_row.file, code_row.line);
            if sequence.last().is_none_or(is_new) {
                sequence.push(code_row);
            }
            if row.end_sequence() {
                let starts_in_code = sequence.first().is_some_and(|row| self.is_code(row));
                match starts_in_code {
                    true => self.lines.rows.append(&mut sequence),
                    false => sequence.clear(),
                }
            }
        }
        Ok(())
    }

    /// Whether a row is about code: no address of a function is 0, which is the section's count.
    fn is_code(&self, row: &CodeRow) -> bool {
        let offset = usize::try_from(row.offset).unwrap_or(usize::MAX);
        self.code.start < offset && offset < self.code.end
    }

    fn row(&self, row: &LineRow, file: Option<u32>) -> CodeRow {
        let line = row.line().and_then(|line| u32::try_from(line.get()).ok());
        let line = line.filter(|_| file.is_some() && !row.end_sequence());
        let address = usize::try_from(row.address()).unwrap_or(usize::MAX);
        let offset = self.code.start.saturating_add(address);
        CodeRow {
            offset: u32::try_from(offset).unwrap_or(u32::MAX),
            file: file.unwrap_or_default(),
            line: line.unwrap_or_default(),
        }
    }

    /// Returns the index of a row's file.
    fn file(&mut self, header: &LineProgramHeader<Section<'_>>, row: &LineRow) -> Option<u32> {
        let path = self.path(header, row)?;
        if let Some(index) = self.files.get(&path) {
            return Some(*index);
        }
        if self.lines.files.len() == FILES_MAX {
            return None;
        }
        let index = u32::try_from(self.lines.files.len()).ok()?;
        self.lines.files.push(path.as_str().into());
        self.files.insert(path, index);
        Some(index)
    }

    /// Returns the path of a row's file, relative to the folder of the compilation.
    fn path(&self, header: &LineProgramHeader<Section<'_>>, row: &LineRow) -> Option<String> {
        let file = row.file(header)?;
        let text = |value| {
            let text = self.dwarf.attr_line_string(value).ok()?;
            Some(String::from_utf8_lossy(text.slice()).into_owned())
        };
        let name = text(file.path_name())?;
        // The first one is the folder of the compilation.
        let folder = match file.directory_index() {
            0 => None,
            _ => file.directory(header).and_then(text),
        };
        Some(match folder {
            Some(folder) if !name.starts_with('/') => short(&format!("{folder}/{name}")),
            _ => short(&name),
        })
    }
}

/// Returns the part of a path that tells which file it is: of the standard library and of crates of
/// a registry without the place of their copy.
fn short(path: &str) -> String {
    let after = |start: &str| {
        let (_, rest) = path.split_once(start)?;
        Some(rest.split_once('/')?.1)
    };
    let known = after("/rustc/").or_else(|| after("/registry/src/"));
    let path = known.unwrap_or(path.strip_prefix("./").unwrap_or(path));
    let cut = path.len().saturating_sub(PATH_BYTES_MAX);
    let start = (cut..=path.len()).find(|at| path.is_char_boundary(*at));
    path.get(start.unwrap_or_default()..)
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> SourceLines {
        let row = |offset, file, line| CodeRow { offset, file, line };
        SourceLines {
            files: vec!["src/lib.rs".into(), "src/ü.rs".into()],
            rows: vec![row(10, 0, 1), row(14, 1, 7), row(20, 0, 0), row(30, 9, 1)],
        }
    }

    #[test]
    fn line_of_code_is_that_of_the_last_row_before() {
        let lines = lines();
        let find = |offset| lines.find(offset);
        assert_eq!(find(9), None);
        assert_eq!(find(10), Some(("src/lib.rs", 1)));
        assert_eq!(find(13), Some(("src/lib.rs", 1)));
        assert_eq!(find(14), Some(("src/ü.rs", 7)));
        // Between functions, and with a file that is not there.
        assert_eq!(find(20), None);
        assert_eq!(find(30), None);
        assert_eq!(find(usize::MAX), None);
    }

    #[test]
    fn encoded_lines_are_decoded_and_truncated_ones_refused() {
        for lines in [lines(), SourceLines::default()] {
            let mut bytes = Vec::new();
            lines.encode(&mut bytes);
            for len in 0..bytes.len() {
                assert!(SourceLines::decode(&bytes[..len]).is_none(), "{len}");
            }
            bytes.extend_from_slice(b"code");
            let (decoded, rest) = SourceLines::decode(&bytes).unwrap();
            assert_eq!((decoded, rest), (lines, &b"code"[..]));
        }
        assert!(SourceLines::decode(&[0xff; 64]).is_none());
    }

    #[test]
    fn malformed_debugging_information_has_no_lines() {
        let mut wasm = b"\0asm\x01\0\0\0".to_vec();
        assert_eq!(SourceLines::read(&wasm), SourceLines::default());
        wasm.extend_from_slice(b"\x00\x1c\x0b.debug_line");
        wasm.extend_from_slice(&[0xff; 16]);
        assert_eq!(SourceLines::read(&wasm), SourceLines::default());
        assert_eq!(SourceLines::read(b"not wasm"), SourceLines::default());
    }

    /// A module whose line table, of DWARF 4, says that the code at 2 and 4 is of lines 3 and 5 of
    /// `src/a.rs`, up to 6. The code section's content begins at 20.
    fn module() -> Vec<u8> {
        let header = [
            &[1, 1, 1, 0xfb, 14, 13][..],
            &[0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1],
            b"src\0\0a.rs\0\x01\0\0\0",
        ]
        .concat();
        let program = [
            // Address 2, line +2, copy; address +2, line +2, copy; address +2, end.
            &[0, 5, 2, 2, 0, 0, 0, 3, 2, 1][..],
            &[2, 2, 3, 2, 1, 2, 2, 0, 1, 1],
        ]
        .concat();
        let len = |bytes: usize| u32::try_from(bytes).unwrap().to_le_bytes();
        let mut table = len(2 + 4 + header.len() + program.len()).to_vec();
        table.extend([4, 0]);
        table.extend(len(header.len()));
        table.extend(header);
        table.extend(program);
        let mut wasm = b"\0asm\x01\0\0\0".to_vec();
        // A type, a function, and its code.
        wasm.extend([1, 4, 1, 0x60, 0, 0, 3, 2, 1, 0, 10, 8]);
        wasm.extend([1, 6, 0, 1, 1, 1, 1, 0x0b]);
        let mut section = b"\x0b.debug_line".to_vec();
        section.extend(table);
        wasm.extend([0, u8::try_from(section.len()).unwrap()]);
        wasm.extend(section);
        wasm
    }

    #[test]
    fn line_table_is_read() {
        let lines = SourceLines::read(&module());
        let expected = [None, Some(3), Some(3), Some(5), Some(5), None];
        for (offset, line) in (21..).zip(expected) {
            let expected = line.map(|line| ("src/a.rs", line));
            assert_eq!(lines.find(offset), expected, "{offset} {lines:?}");
        }
    }

    /// Whatever is wrong in a table, reading it ends, and what was read can be encoded.
    #[test]
    fn modified_line_table_does_no_harm() {
        let wasm = module();
        for at in 28..wasm.len() {
            for value in [0, 1, 2, 3, 9, 0x7f, 0x80, 0xfe, 0xff] {
                let mut wasm = wasm.clone();
                wasm[at] = value;
                let lines = SourceLines::read(&wasm);
                assert!(lines.rows.is_sorted_by_key(|row| row.offset));
                let mut bytes = Vec::new();
                lines.encode(&mut bytes);
                let (decoded, _) = SourceLines::decode(&bytes).unwrap();
                assert_eq!(decoded, lines);
            }
        }
    }

    #[test]
    fn path_is_short() {
        for (path, expected) in [
            ("src/lib.rs", "src/lib.rs"),
            ("./src/lib.rs", "src/lib.rs"),
            (
                "/rustc/0123abcd/library/core/src/num.rs",
                "library/core/src/num.rs",
            ),
            (
                "/home/a/.cargo/registry/src/index-1/serde-1.0.0/src/lib.rs",
                "serde-1.0.0/src/lib.rs",
            ),
        ] {
            assert_eq!(short(path), expected);
        }
        assert_eq!(short(&"é".repeat(100)).len(), PATH_BYTES_MAX);
    }
}
