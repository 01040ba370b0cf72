//! Just enough of the zstd format to build and to damage files: where frames begin, and frames to be skipped.

/// A frame's place in a file; `content` is false for skippable ones.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    pub at: usize,
    pub length: usize,
    pub content: bool,
}

fn u32_at(data: &[u8], at: usize) -> usize {
    u32::from_le_bytes(data[at..at + 4].try_into().unwrap()) as usize
}

/// The frames of a sound file (RFC 8878: header, blocks of 3 + n bytes, checksum).
pub fn frames(data: &[u8]) -> Vec<Frame> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < data.len() {
        let magic = u32_at(data, at);
        if magic & 0xFFFF_FFF0 == 0x184D_2A50 {
            let length = 8 + u32_at(data, at + 4);
            found.push(Frame {
                at,
                length,
                content: false,
            });
            at += length;
            continue;
        }
        assert_eq!(magic, 0xFD2F_B528, "a frame at {at}");
        let descriptor = data[at + 4] as usize;
        let single = descriptor >> 5 & 1;
        let size = [single, 2, 4, 8][descriptor >> 6];
        let mut end = at + 5 + (1 - single) + [0, 1, 2, 4][descriptor & 3] + size;
        loop {
            let block = u32_at(data, end) & 0xFF_FFFF;
            end += 3 + if block >> 1 & 3 == 1 { 1 } else { block >> 3 };
            if block & 1 == 1 {
                break;
            }
        }
        end += 4 * (descriptor >> 2 & 1);
        found.push(Frame {
            at,
            length: end - at,
            content: true,
        });
        at = end;
    }
    found
}

/// A skippable frame around `data`; `kind` is its magic's last digit.
pub fn skippable(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut frame = (0x184D_2A50 + kind).to_le_bytes().to_vec();
    frame.extend_from_slice(&(data.len() as u32).to_le_bytes());
    frame.extend_from_slice(data);
    frame
}

/// A seek table of the zstd seekable format over (compressed, decompressed) sizes.
pub fn seek_table(sizes: &[(usize, usize)]) -> Vec<u8> {
    let mut table = Vec::new();
    for (packed, content) in sizes {
        table.extend_from_slice(&(*packed as u32).to_le_bytes());
        table.extend_from_slice(&(*content as u32).to_le_bytes());
    }
    table.extend_from_slice(&(sizes.len() as u32).to_le_bytes());
    table.push(0);
    table.extend_from_slice(&0x8F92_EAB1_u32.to_le_bytes());
    skippable(14, &table)
}
