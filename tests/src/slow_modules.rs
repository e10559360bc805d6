//! Small modules that are slow to compile.

fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(byte);
            return bytes;
        }
        bytes.push(byte | 0x80);
    }
}

/// A module of one function with `locals` locals and this body.
fn one_function(locals: usize, body: &[u8]) -> Vec<u8> {
    let section = |id: u8, content: &[u8]| [&[id], &leb(content.len())[..], content].concat();
    let code = [&[1][..], &leb(locals), &[0x7f], body, &[0x41, 0, 0x0b]].concat();
    let code = [&[1][..], &leb(code.len()), &code].concat();
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, b"\x01\x60\0\x01\x7f"),
        section(3, b"\x01\0"),
        section(5, b"\x01\0\x01"),
        section(7, b"\x02\x06memory\x02\0\x03run\0\0"),
        section(10, &code),
    ]
    .concat()
}

/// One function of 200,000 blocks: takes about a minute.
pub fn blocks() -> Vec<u8> {
    let block = b"\x02\x40\x20\x00\x0d\x00\x20\x01\x41\x01\x6a\x21\x01\x0b";
    one_function(2, &block.repeat(200_000))
}

/// 1,000 locals in 8,000 ifs: takes minutes.
pub fn ifs() -> Vec<u8> {
    let mut body = Vec::new();
    for at in 0..8_000 {
        body.extend(b"\x20\x00\x04\x40");
        for set in 0..20 {
            body.push(0x20);
            body.extend(leb((at * 7 + set) % 1_000));
            body.extend(b"\x41\x01\x6a\x21");
            body.extend(leb((at * 20 + set * 13) % 1_000));
        }
        body.push(0x0b);
    }
    one_function(1_000, &body)
}

/// A module of `functions` functions, 50,000 of which take about 4 s of CPU time, and `data`
/// bytes of data.
pub fn functions(functions: usize, data: usize) -> Vec<u8> {
    let section = |id: u8, content: &[u8]| [&[id], &leb(content.len())[..], content].concat();
    let sized = |content: &[u8]| [&leb(content.len())[..], content].concat();
    // Adds and multiplies values from memory at the argument.
    let one = sized(b"\0\x20\0\x20\0\x28\x02\0\x6c\x20\0\x28\x02\x04\x6a\x0b");
    let run = sized(b"\0\x41\0\x0b");
    let types = [&leb(functions + 1)[..], &vec![0; functions], b"\x01"].concat();
    let pages = leb(data.div_ceil(64 * 1024).max(1));
    let exports = [&b"\x02\x06memory\x02\0\x03run\0"[..], &leb(functions)].concat();
    let code = [&leb(functions + 1)[..], &one.repeat(functions), &run].concat();
    // Not zeros, which would take no space in the compiled module.
    let bytes = [b"\x01\0\x41\0\x0b".as_slice(), &sized(&vec![7; data])].concat();
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, b"\x02\x60\x01\x7f\x01\x7f\x60\0\x01\x7f"),
        section(3, &types),
        section(5, &[b"\x01\0".as_slice(), &pages].concat()),
        section(7, &exports),
        section(10, &code),
        section(11, &bytes),
    ]
    .concat()
}
