//! A small deterministic generator: the same seed gives the same test everywhere.

pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit.max(1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }

    /// Incompressible bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| (self.next() >> 32) as u8).collect()
    }

    /// Append `length` bytes of text that compresses about as sessions do.
    pub fn words(&mut self, text: &mut Vec<u8>, length: usize) {
        const WORDS: [&str; 12] = [
            "the ",
            "session ",
            "tool_use ",
            "file_path ",
            "src/main.rs ",
            "content ",
            "let x = ",
            "return ",
            "assistant ",
            "Result<(), Error> ",
            "and then ",
            "of ",
        ];
        let end = text.len() + length;
        while text.len() < end {
            if self.chance(20) {
                text.extend_from_slice(format!("{:08x} ", self.next() as u32).as_bytes());
            } else {
                text.extend_from_slice(self.pick(&WORDS).as_bytes());
            }
        }
        text.truncate(end);
    }
}
