//! Rough comparison of screenshots: where there is ink.
//!
//! Fonts differ between machines, so that pixels cannot be compared. A screenshot is reduced to a
//! grid of cells that are blank or have something drawn on them.

use flate2::read::ZlibDecoder;
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

const COLUMNS: usize = 12;
const ROWS: usize = 12;
/// Share of the pixels of a cell that must differ from the background.
const INK: f64 = 0.004;

/// A decoded image, with 3 bytes for each pixel.
struct Image {
    width: usize,
    height: usize,
    pixels: Vec<[u8; 3]>,
}

/// Decodes a PNG as Chromium writes it: 8 bits, RGB or RGBA, not interlaced.
fn decode(png: &[u8]) -> Image {
    assert_eq!(&png[1..4], b"PNG");
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap()) as usize;
    let (width, height) = (number(16), number(20));
    let depth = match (png[24], png[25], png[28]) {
        (8, 2, 0) => 3,
        (8, 6, 0) => 4,
        format => panic!("a screenshot of the format {format:?}"),
    };
    let (mut data, mut at) = (Vec::new(), 8);
    while at < png.len() {
        let len = number(at);
        if &png[at + 4..at + 8] == b"IDAT" {
            data.extend_from_slice(&png[at + 8..at + 8 + len]);
        }
        at += len + 12;
    }
    let mut raw = Vec::new();
    ZlibDecoder::new(data.as_slice())
        .read_to_end(&mut raw)
        .unwrap();
    let stride = width * depth;
    let mut above = vec![0; stride];
    let mut pixels = Vec::with_capacity(width * height);
    for line in raw.chunks_exact(stride + 1) {
        let mut row = line[1..].to_vec();
        unfilter(line[0], &mut row, &above, depth);
        pixels.extend(
            row.chunks_exact(depth)
                .map(|pixel| [pixel[0], pixel[1], pixel[2]]),
        );
        above = row;
    }
    Image {
        width,
        height,
        pixels,
    }
}

/// PNG, section 9: each byte is stored as the difference from a prediction.
fn unfilter(kind: u8, row: &mut [u8], above: &[u8], depth: usize) {
    for at in 0..row.len() {
        let left = if at < depth { 0 } else { row[at - depth] };
        let corner = if at < depth { 0 } else { above[at - depth] };
        let up = above[at];
        let predicted = match kind {
            0 => 0,
            1 => left,
            2 => up,
            3 => ((u16::from(left) + u16::from(up)) / 2) as u8,
            4 => {
                let estimate = i16::from(left) + i16::from(up) - i16::from(corner);
                let far = |value: u8| (estimate - i16::from(value)).abs();
                *[left, up, corner]
                    .iter()
                    .min_by_key(|value| far(**value))
                    .unwrap()
            }
            other => panic!("unknown filter {other}"),
        };
        row[at] = row[at].wrapping_add(predicted);
    }
}

/// The grid as text: `#` for cells with ink.
fn grid(image: &Image) -> String {
    let mut counts = HashMap::new();
    for pixel in image.pixels.iter().step_by(17) {
        *counts.entry(pixel).or_insert(0_usize) += 1;
    }
    let (background, _) = counts.into_iter().max_by_key(|(_, count)| *count).unwrap();
    let is_ink = |pixel: &[u8; 3]| {
        let apart = pixel
            .iter()
            .zip(background)
            .map(|(a, b)| u32::from(a.abs_diff(*b)));
        apart.sum::<u32>() > 60
    };
    let mut text = String::new();
    for row in 0..ROWS {
        let lines = image.height * row / ROWS..image.height * (row + 1) / ROWS;
        for column in 0..COLUMNS {
            let part = image.width * column / COLUMNS..image.width * (column + 1) / COLUMNS;
            let pixels = lines
                .clone()
                .flat_map(|y| &image.pixels[y * image.width..][part.clone()]);
            let (mut ink, mut all) = (0, 0);
            // Every third pixel is enough to see strokes.
            for pixel in pixels.step_by(3) {
                ink += usize::from(is_ink(pixel));
                all += 1;
            }
            text.push(if ink as f64 > all as f64 * INK {
                '#'
            } else {
                '.'
            });
        }
        text.push('\n');
    }
    text
}

/// Compares two grids: most of what has ink still has some, and most blank cells are blank.
fn compare(kept: &str, now: &str) -> Result<(), String> {
    let share = |mark: char| {
        let cells: Vec<_> = kept
            .chars()
            .zip(now.chars())
            .filter(|(a, _)| *a == mark)
            .collect();
        let same = cells.iter().filter(|(_, b)| *b == mark).count();
        if cells.is_empty() {
            1.0
        } else {
            same as f64 / cells.len() as f64
        }
    };
    let (ink, blank) = (share('#'), share('.'));
    match kept.len() == now.len() && ink >= 0.6 && blank >= 0.6 {
        true => Ok(()),
        false => Err(format!(
            "ink {ink:.2}, blank {blank:.2}\nkept:\n{kept}\nnow:\n{now}"
        )),
    }
}

/// Compares a screenshot with the kept one; with `KVASM_UPDATE=1` keeps it.
#[track_caller]
pub fn check(name: &str, png: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/console");
    let file = folder.join(format!("{name}.txt"));
    let now = grid(&decode(png));
    if let Some(folder) = std::env::var_os("KVASM_SCREENSHOTS") {
        std::fs::write(Path::new(&folder).join(format!("{name}.png")), png).unwrap();
    }
    if std::env::var_os("KVASM_UPDATE").is_some() {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(file, now).unwrap();
        return;
    }
    let kept = std::fs::read_to_string(&file)
        .unwrap_or_else(|_| panic!("no {}; KVASM_UPDATE=1 writes it", file.display()));
    if let Err(why) = compare(&kept, &now) {
        panic!("the screenshot {name} differs: {why}");
    }
}

#[test]
fn empty_page_differs_from_every_kept_screenshot() {
    let pixels = vec![[255; 3]; 120 * 120];
    let empty = grid(&Image {
        width: 120,
        height: 120,
        pixels,
    });
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/console");
    let mut seen = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let kept = std::fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(compare(&kept, &empty).is_err(), "\n{kept}");
        assert!(compare(&kept, &kept).is_ok());
        seen += 1;
    }
    assert!(seen >= 10, "{seen} screenshots");
}
