//! `stats`: what the cellar saves, by project or session, and what compressing bundles would save.
//!
//! Asks the store, not the daemon, and decodes nothing: sizes come from the survey. What bundles would
//! save is therefore an estimate: that their `.jsonl` files compress like this store's own sealed
//! sessions, which hold the same kind of lines. Small files compress less well than that.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::cli::By;
use crate::config::Config;
use crate::exit::Failure;
use crate::survey::{Bundle, Survey, Surveyed, survey};
use crate::{json, paths, size};

pub struct Stats {
    by: By,
    /// The largest first.
    rows: Vec<Row>,
    total: Row,
    /// How many sessions count with their stored size, because only decoding could tell theirs.
    unknown: u64,
    bundles: Bundles,
    /// Of the sealed sessions together.
    sealed: Size,
}

/// A line of the table.
#[derive(Default)]
struct Row {
    path: PathBuf,
    sessions: u64,
    size: Size,
    allocated: u64,
    /// Stored bytes of its bundles.
    bundles: u64,
}

#[derive(Clone, Copy, Default)]
struct Size {
    original: u64,
    stored: u64,
}

/// What lies in all bundles.
#[derive(Default)]
struct Bundles {
    /// Plain `.jsonl` files that can be compressed.
    plain: u64,
    compressed: Size,
    /// Everything else, which stays as it is.
    other: u64,
    allocated: u64,
}

impl Stats {
    pub fn read(config: &Config, by: By) -> Result<Stats, Failure> {
        let store = paths::resolve(&config.store_dir);
        survey(&store, true)
            .map(|found| Stats::of(&found, by))
            .map_err(|error| Failure::at("cannot read the store", &store, error))
    }

    fn of(found: &Survey, by: By) -> Stats {
        let mut stats = Stats {
            by,
            rows: rows(found, by),
            total: Row::default(),
            unknown: 0,
            bundles: Bundles::default(),
            sealed: Size::default(),
        };
        for row in &stats.rows {
            stats.total.add(row);
        }
        for session in &found.sessions {
            stats.unknown += u64::from(session.original.is_none());
            if session.packed.is_some() && session.waiting.is_none() {
                stats.sealed.add(Size::of(session));
            }
        }
        for bundle in &found.bundles {
            stats.bundles.add(bundle);
        }
        stats
    }

    /// About how many bytes compressing bundles would save; `None` while there is nothing to tell
    /// from.
    fn estimate(&self) -> Option<u64> {
        let Size { original, stored } = self.sealed;
        let plain = u128::from(self.bundles.plain);
        let compressed = (plain * u128::from(stored)).checked_div(u128::from(original))?;
        let compressed = u64::try_from(compressed).unwrap_or(u64::MAX);
        Some(self.bundles.plain.saturating_sub(compressed))
    }
}

/// The lines of the table but the last, the largest first.
fn rows(found: &Survey, by: By) -> Vec<Row> {
    // A session's bundle is the directory that has its name without `.jsonl`.
    let key = |path: &Path| match by {
        By::Project => path.iter().take(1).collect(),
        By::Session => path.to_owned(),
    };
    let mut rows: HashMap<PathBuf, Row> = HashMap::new();
    for session in &found.sessions {
        let row = rows
            .entry(key(&session.path.with_extension("")))
            .or_default();
        row.path = key(&session.path);
        row.sessions += 1;
        row.size.add(Size::of(session));
        row.allocated += session.allocated;
    }
    for bundle in &found.bundles {
        let key = key(&bundle.path);
        // Without a session it has a line of its own, with the slash of a directory.
        let path = match by {
            By::Project => key.clone(),
            By::Session => key.join(""),
        };
        let row = rows.entry(key).or_insert_with(|| Row {
            path,
            ..Row::default()
        });
        row.bundles += bundle.stored();
    }
    let mut rows: Vec<Row> = rows.into_values().collect();
    let stored = |row: &Row| row.size.stored + row.bundles;
    rows.sort_by(|a, b| {
        let by_size = stored(b).cmp(&stored(a));
        by_size.then_with(|| a.path.cmp(&b.path))
    });
    rows
}

impl Row {
    fn add(&mut self, row: &Row) {
        self.sessions += row.sessions;
        self.size.add(row.size);
        self.allocated += row.allocated;
        self.bundles += row.bundles;
    }
}

impl Size {
    fn of(session: &Surveyed) -> Size {
        Size {
            original: session.original.unwrap_or(session.stored),
            stored: session.stored,
        }
    }

    fn add(&mut self, size: Size) {
        // A damaged header may claim anything.
        self.original = self.original.saturating_add(size.original);
        self.stored += size.stored;
    }
}

impl Bundles {
    fn add(&mut self, bundle: &Bundle) {
        self.other += bundle.other;
        self.allocated += bundle.other_allocated;
        for session in &bundle.sessions {
            self.allocated += session.allocated;
            match (&session.packed, session.waiting) {
                (Some(_), _) => self.compressed.add(Size::of(session)),
                (None, Some(_)) => self.plain += session.stored,
                (None, None) => self.other += session.stored,
            }
        }
    }

    fn stored(&self) -> u64 {
        self.plain + self.compressed.stored + self.other
    }
}

impl Bundle {
    fn stored(&self) -> u64 {
        let sessions = self.sessions.iter().map(|session| session.stored);
        self.other + sessions.sum::<u64>()
    }
}

// ---- as text ----------------------------------------------------------------------------------

impl Stats {
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |original: &str, stored: &str, ratio: &str, bundles: &str, name: &str| {
            let _ = writeln!(
                out,
                "{original:>10}  {stored:>10}  {ratio:>7}  {bundles:>10}  {name}"
            );
        };
        let (bundles, name) = match self.by {
            By::Project => ("BUNDLES", "PROJECT"),
            By::Session => ("BUNDLE", "SESSION"),
        };
        line("ORIGINAL", "STORED", "RATIO", bundles, name);
        let mut row = |row: &Row, name: &str| {
            line(
                &size::bytes(row.size.original),
                &size::bytes(row.size.stored),
                &row.size.ratio(),
                &size::bytes(row.bundles),
                name,
            );
        };
        for of in &self.rows {
            row(of, &of.path.to_string_lossy());
        }
        let sessions = size::count(self.total.sessions, "session");
        row(&self.total, &format!("TOTAL of {sessions}"));
        out + &self.notes()
    }

    /// What the table does not say.
    fn notes(&self) -> String {
        let mut out = String::new();
        if self.unknown > 0 {
            let _ = writeln!(
                out,
                "\nThe size of {} is unknown and counts as what is stored.",
                size::count(self.unknown, "session")
            );
        }
        let bundles = self.bundles.text();
        if !bundles.is_empty() {
            let _ = writeln!(out, "\nBundles: {bundles}.");
        }
        if self.bundles.plain > 0 {
            out += &match self.estimate() {
                Some(saving) => format!(
                    "CLAUDE_CELLAR_BUNDLES=compress would save about {}: an estimate, as if they \
                     compressed like the\nsealed sessions of this store ({}).\n",
                    size::bytes(saving),
                    self.sealed.ratio()
                ),
                None => {
                    "What CLAUDE_CELLAR_BUNDLES=compress would save can be told once a session \
                         is sealed.\n"
                        .to_owned()
                }
            };
        }
        out
    }
}

impl Bundles {
    fn text(&self) -> String {
        let Bundles {
            plain,
            compressed: Size { original, stored },
            other,
            ..
        } = *self;
        let part = |bytes: u64, what: &str| (bytes > 0).then(|| size::bytes(bytes) + what);
        let stored = format!(" of .jsonl files stored as {}", size::bytes(stored));
        let parts = [
            part(plain, " of plain .jsonl files"),
            part(original, &stored),
            part(other, " of other files"),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

impl Size {
    fn ratio(self) -> String {
        match self.stored {
            0 => "-".to_owned(),
            stored => size::ratio(self.original, stored),
        }
    }
}

// ---- as JSON ----------------------------------------------------------------------------------

impl Stats {
    pub fn json(&self) -> String {
        let by = match self.by {
            By::Project => "project",
            By::Session => "session",
        };
        let rows: Vec<String> = self.rows.iter().map(Row::named).collect();
        let object = json::object([
            ("by", json::string(by)),
            ("rows", format!("[{}]", rows.join(","))),
            ("total", json::object(self.total.fields())),
            ("unknown", self.unknown.to_string()),
            ("bundles", self.bundles.json(self.estimate())),
        ]);
        object + "\n"
    }
}

impl Row {
    fn named(&self) -> String {
        let name = json::string(&self.path.to_string_lossy());
        json::object([("name", name)].into_iter().chain(self.fields()))
    }

    fn fields(&self) -> [(&'static str, String); 6] {
        let Size { original, stored } = self.size;
        let ratio = original as f64 / stored.max(1) as f64;
        [
            ("sessions", self.sessions.to_string()),
            ("original_bytes", original.to_string()),
            ("stored_bytes", stored.to_string()),
            ("allocated_bytes", self.allocated.to_string()),
            ("ratio", format!("{ratio:.2}")),
            ("bundle_bytes", self.bundles.to_string()),
        ]
    }
}

impl Bundles {
    fn json(&self, saving: Option<u64>) -> String {
        let Size { original, stored } = self.compressed;
        json::object([
            ("stored_bytes", self.stored().to_string()),
            ("allocated_bytes", self.allocated.to_string()),
            ("plain_jsonl_bytes", self.plain.to_string()),
            ("compressed_jsonl_original_bytes", original.to_string()),
            ("compressed_jsonl_bytes", stored.to_string()),
            ("other_bytes", self.other.to_string()),
            ("estimated_saving_bytes", json::number(saving)),
        ])
    }
}
