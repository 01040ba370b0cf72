//! The timeline of checkpoints, a file's history and a line's origin, drawn for a terminal.
//!
//! Each session is a lane on one common axis: a dot is a checkpoint, its stem leads to a label. Labels
//! stand right of the dots, the newest on top, so no stem can cross another. What is too many for that
//! is drawn together: neighbouring dots share a bracket and a label. Idle hours shrink to a dotted
//! piece of axis, for a session of an hour must not vanish in a week.
//!
//! Everything here is a pure function; the time zone is an argument of what the tests call.

use std::collections::HashMap;
use std::fmt::Write;

use serde_json::Value;

use super::localtime::{self, Civil};
use super::note::{Call, Change, Checkpoint, Note};
use super::terminal::{Painter, padded, width};
use crate::size;

/// A checkpoint with what changed since the one before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moment {
    pub checkpoint: Checkpoint,
    pub changes: Vec<Change>,
}

/// One line of a file, or several with the same origin that follow each other.
#[derive(Clone, Debug)]
pub struct Origin<'a> {
    /// The first line's number, from 1.
    pub line: u64,
    /// The lines, without their ends.
    pub text: Vec<String>,
    /// The checkpoint that has them first. Version 0 stands for one that is still to be made.
    pub note: &'a Note,
    /// How that checkpoint changed this file.
    pub change: Option<&'a Change>,
    /// The calls that may have written them: none, exactly one, or all among which they are shared.
    pub calls: Vec<&'a Call>,
    /// What the agent said last before the call.
    pub words: Option<&'a str>,
}

/// Narrower than this, a drawing is no drawing.
const NARROWEST: usize = 40;
/// Wider than this, eyes lose the line.
const WIDEST: usize = 200;
/// A lane has no more labels than this.
const LABELS: usize = 12;
/// An idle time is shortened only if it is longer than this.
const IDLE: i64 = 30 * 60 * 1_000;

/// The drawing of all checkpoints, with the details of the newest. `title` names the project, `width`
/// is in columns.
pub fn timeline(title: &str, moments: &[Moment], width: usize, paint: &Painter) -> String {
    timeline_at(title, moments, None, width, paint)
}

/// As [`timeline`], with the details of the checkpoint that has the version `selected`.
pub fn timeline_at(
    title: &str,
    moments: &[Moment],
    selected: Option<u64>,
    width: usize,
    paint: &Painter,
) -> String {
    drawn(title, moments, selected, width, paint, &localtime::local)
}

fn drawn(
    title: &str,
    moments: &[Moment],
    selected: Option<u64>,
    width: usize,
    paint: &Painter,
    zone: &dyn Fn(i64) -> Civil,
) -> String {
    let mut moments: Vec<&Moment> = moments.iter().collect();
    moments.sort_by_key(|moment| (time(moment), version(moment)));
    let newest = moments.iter().max_by_key(|moment| version(moment)).copied();
    let wanted = moments
        .iter()
        .find(|moment| Some(version(moment)) == selected);
    let drawing = Drawing {
        selected: wanted.copied().or(newest),
        inner: width.clamp(NARROWEST, WIDEST) - 6,
        glyphs: if paint.unicode { &UNICODE } else { &ASCII },
        moments,
        paint,
        zone,
    };
    drawing.boxed(title)
}

fn time(moment: &Moment) -> i64 {
    moment.checkpoint.note.time
}

fn version(moment: &Moment) -> u64 {
    moment.checkpoint.note.version
}

/// What a drawing is made of.
struct Glyphs {
    top: [&'static str; 3],
    middle: [&'static str; 3],
    bottom: [&'static str; 3],
    side: &'static str,
    axis: &'static str,
    idle: &'static str,
    dot: &'static str,
    selected: &'static str,
    link: &'static str,
    stem: &'static str,
    turn: &'static str,
    open: &'static str,
    fork: &'static str,
    close: &'static str,
    /// An end of a bracket and its stem at once.
    close_on_stem: &'static str,
    item: &'static str,
    last_item: &'static str,
    to: &'static str,
    more: &'static str,
}

const UNICODE: Glyphs = Glyphs {
    top: ["┌", "─", "┐"],
    middle: ["├", "─", "┤"],
    bottom: ["└", "─", "┘"],
    side: "│",
    axis: "═",
    idle: "·",
    dot: "●",
    selected: "◆",
    link: "─",
    stem: "│",
    turn: "└",
    open: "╰",
    fork: "┬",
    close: "╯",
    close_on_stem: "┤",
    item: "├── ",
    last_item: "└── ",
    to: "–",
    more: " …",
};

const ASCII: Glyphs = Glyphs {
    top: ["+", "-", "+"],
    middle: ["+", "-", "+"],
    bottom: ["+", "-", "+"],
    side: "|",
    axis: "=",
    idle: ".",
    dot: "o",
    selected: "@",
    link: "-",
    stem: "|",
    turn: "`",
    open: "`",
    fork: "+",
    close: "'",
    close_on_stem: "+",
    item: "|-- ",
    last_item: "`-- ",
    to: "-",
    more: " ...",
};

#[derive(Clone, Copy)]
enum Ink {
    Plain,
    Bold,
    Dim,
    Green,
    Red,
    Yellow,
    Cyan,
}

/// A line in the making: its length on the screen does not count colours.
#[derive(Default)]
struct Line {
    pieces: Vec<(Ink, String)>,
}

impl Line {
    fn new(ink: Ink, text: impl Into<String>) -> Line {
        Line::default().and(ink, text)
    }

    fn and(mut self, ink: Ink, text: impl Into<String>) -> Line {
        self.pieces.push((ink, text.into()));
        self
    }

    fn columns(&self) -> usize {
        self.pieces.iter().map(|(_, text)| width(text)).sum()
    }

    fn painted(&self, paint: &Painter) -> String {
        let painted = self.pieces.iter().map(|(ink, text)| match ink {
            Ink::Plain => text.clone(),
            Ink::Bold => paint.bold(text),
            Ink::Dim => paint.dim(text),
            Ink::Green => paint.green(text),
            Ink::Red => paint.red(text),
            Ink::Yellow => paint.yellow(text),
            Ink::Cyan => paint.cyan(text),
        });
        painted.collect()
    }
}

struct Drawing<'a> {
    /// By time.
    moments: Vec<&'a Moment>,
    selected: Option<&'a Moment>,
    /// Columns inside the box and its margins.
    inner: usize,
    glyphs: &'a Glyphs,
    paint: &'a Painter,
    zone: &'a dyn Fn(i64) -> Civil,
}

impl<'a> Drawing<'a> {
    fn boxed(&self, title: &str) -> String {
        let name = self.paint.line(title) + &self.days();
        let heading = match format!("SESSION TIMELINE: {name}") {
            long if width(&long) > self.inner => name,
            heading => heading,
        };
        let mut out = String::new();
        self.rule(&mut out, &self.glyphs.top);
        self.row(&mut out, &Line::new(Ink::Bold, self.cut(&heading)));
        self.rule(&mut out, &self.glyphs.middle);
        self.row(&mut out, &Line::default());
        for line in self.body() {
            self.row(&mut out, &line);
        }
        self.row(&mut out, &Line::default());
        self.rule(&mut out, &self.glyphs.bottom);
        out
    }

    fn rule(&self, out: &mut String, [left, line, right]: &[&str; 3]) {
        let rule = format!("{left}{}{right}", line.repeat(self.inner + 4));
        let _ = writeln!(out, "{}", self.paint.dim(&rule));
    }

    fn row(&self, out: &mut String, line: &Line) {
        let side = self.paint.dim(self.glyphs.side);
        let blanks = " ".repeat(self.inner.saturating_sub(line.columns()));
        let _ = writeln!(out, "{side}  {}{blanks}  {side}", line.painted(self.paint));
    }

    fn cut(&self, text: &str) -> String {
        self.paint.cut(text, self.inner)
    }

    /// The days of the drawing, and the part of the day where there is only one.
    fn days(&self) -> String {
        let (Some(first), Some(last)) = (self.moments.first(), self.moments.last()) else {
            return String::new();
        };
        let (first, last) = ((self.zone)(time(first)), (self.zone)(time(last)));
        let part = |civil: &Civil| match civil.hour {
            5..12 => " morning",
            12..18 => " afternoon",
            18..23 => " evening",
            _ => " night",
        };
        match first.date() == last.date() {
            true if part(&first) == part(&last) => format!(" / {}{}", first.date(), part(&first)),
            true => format!(" / {}", first.date()),
            false => format!(" / {} {} {}", first.date(), self.glyphs.to, last.date()),
        }
    }

    fn body(&self) -> Vec<Line> {
        let Some(selected) = self.selected else {
            return vec![Line::new(Ink::Plain, "No checkpoints yet")];
        };
        let axis = Axis::new(&self.moments, self.inner - 3 - self.label_room());
        let lanes = self.lanes();
        let mut lines = self.scale(&axis);
        for lane in &lanes {
            lines.push(Line::default());
            lines.extend(self.lane(lane, &axis, lanes.len()));
        }
        lines.push(Line::default());
        lines.extend(self.details(selected));
        if self.moments.iter().any(|moment| !moment.changes.is_empty()) {
            lines.push(Line::default());
            lines.extend(self.files_most_changed());
        }
        lines
    }

    /// Columns that the longest label would like to have, up to half of all.
    fn label_room(&self) -> usize {
        let labels = self.moments.iter().map(|moment| {
            let name = format!("v{}", version(moment));
            let range = if self.moments.len() > LABELS {
                name.len() + 3
            } else {
                0
            };
            name.len() + range + 4 + width(&self.headline(moment))
        });
        labels.max().unwrap_or(0).min(self.inner / 2)
    }

    /// When the axis begins and ends, and the axis.
    fn scale(&self, axis: &Axis) -> Vec<Line> {
        let (first, last) = ((self.zone)(axis.first), (self.zone)(axis.last));
        let forms = match first.date() == last.date() {
            true => [(first.short(), last.clock()), (first.clock(), last.clock())],
            false => [(first.short(), last.short()), (first.day(), last.day())],
        };
        let fits = |(begin, end): &&(String, String)| begin.len() + end.len() + 2 <= axis.columns;
        let times = match forms.iter().find(fits) {
            Some((begin, end)) if first != last => {
                let between = axis.columns - begin.len() - end.len();
                format!("{begin}{}{end}", " ".repeat(between))
            }
            _ => forms[0].0.clone(),
        };
        let pieces = (0..axis.columns).map(|column| match axis.is_idle(column) {
            true => self.glyphs.idle,
            false => self.glyphs.axis,
        });
        vec![
            Line::new(Ink::Plain, times),
            Line::new(Ink::Dim, pieces.collect::<String>()),
        ]
    }

    /// The moments of each session, the session that began first before the others, and at last what
    /// belongs to none.
    fn lanes(&self) -> Vec<Vec<&'a Moment>> {
        let mut lanes: Vec<Vec<&Moment>> = Vec::new();
        let mut known: HashMap<Option<&str>, usize> = HashMap::new();
        for moment in &self.moments {
            let session = moment.checkpoint.note.call.session.as_deref();
            let lane = *known.entry(session).or_insert(lanes.len());
            match lanes.get_mut(lane) {
                Some(lane) => lane.push(moment),
                None => lanes.push(vec![moment]),
            }
        }
        let is_none = |lane: &Vec<&Moment>| lane[0].checkpoint.note.call.session.is_none();
        lanes.sort_by_key(is_none);
        lanes
    }

    fn lane(&self, lane: &[&'a Moment], axis: &Axis, lanes: usize) -> Vec<Line> {
        let placed = axis.place(lane);
        let labels = match lanes {
            0..=2 => LABELS,
            3..=5 => 8,
            _ => 5,
        };
        let clusters = clusters(placed, labels);
        let mut lines = vec![self.lane_heading(lane, lanes), self.dots(&clusters)];
        if clusters.iter().any(|cluster| cluster.first < cluster.last) {
            lines.push(self.brackets(&clusters));
        }
        lines.extend(
            (0..clusters.len())
                .rev()
                .map(|at| self.label(&clusters, at)),
        );
        lines
    }

    fn lane_heading(&self, lane: &[&Moment], lanes: usize) -> Line {
        let (Some(first), Some(last)) = (lane.first(), lane.last()) else {
            return Line::default();
        };
        let mut length = elapsed(time(last) - time(first));
        if lanes > 1 {
            let begun = (self.zone)(time(first));
            length = format!("{}, {length}", begun.short());
        }
        let name = match &first.checkpoint.note.call.session {
            Some(session) => format!("Session: {}", self.paint.line(session)),
            None => "No session".to_owned(),
        };
        let room = self.inner.saturating_sub(length.len() + 3);
        Line::new(Ink::Cyan, self.paint.cut(&name, room)).and(Ink::Plain, format!(" ({length})"))
    }

    fn dots(&self, clusters: &[Cluster]) -> Line {
        let mut line = Line::default();
        let mut end = 0;
        for (column, moments) in clusters.iter().flat_map(|cluster| &cluster.dots) {
            let between = match end {
                0 => " ".repeat(*column),
                _ => self.glyphs.link.repeat(column - end),
            };
            let (ink, dot) = match self.has_selected(moments) {
                true => (Ink::Yellow, self.glyphs.selected),
                false => (Ink::Bold, self.glyphs.dot),
            };
            line = line.and(Ink::Dim, between).and(ink, dot);
            end = column + 1;
        }
        line
    }

    fn has_selected(&self, moments: &[&Moment]) -> bool {
        let selected = self.selected.map(version);
        moments
            .iter()
            .any(|moment| Some(version(moment)) == selected)
    }

    /// What ties the dots of each label together.
    fn brackets(&self, clusters: &[Cluster]) -> Line {
        let glyphs = self.glyphs;
        let mut text = String::new();
        for cluster in clusters {
            text.push_str(&" ".repeat(cluster.first - width(&text)));
            let stem = cluster.stem();
            text.push_str(match cluster.first == cluster.last {
                true => glyphs.stem,
                false => glyphs.open,
            });
            for column in cluster.first + 1..=cluster.last {
                text.push_str(match (column == stem, column == cluster.last) {
                    (true, true) => glyphs.close_on_stem,
                    (true, false) => glyphs.fork,
                    (false, true) => glyphs.close,
                    (false, false) => glyphs.link,
                });
            }
        }
        Line::new(Ink::Dim, text)
    }

    /// The stems left of a label, its own turn, and its text.
    fn label(&self, clusters: &[Cluster], at: usize) -> Line {
        let mut stems = String::new();
        for cluster in &clusters[..at] {
            stems.push_str(&" ".repeat(cluster.stem() - width(&stems)));
            stems.push_str(self.glyphs.stem);
        }
        stems.push_str(&" ".repeat(clusters[at].stem() - width(&stems)));
        stems.push_str(self.glyphs.turn);
        let last = clusters.last().map_or(0, |cluster| cluster.last);
        stems.push_str(&self.glyphs.link.repeat(last + 2 - width(&stems)));
        stems.push(' ');
        let room = self.inner.saturating_sub(width(&stems));
        let (name, text) = self.label_text(&clusters[at].moments(), room);
        let ink = match self.has_selected(&clusters[at].moments()) {
            true => Ink::Bold,
            false => Ink::Plain,
        };
        Line::new(Ink::Dim, stems)
            .and(Ink::Yellow, name)
            .and(ink, text)
    }

    /// The versions, and what the most telling of them did.
    fn label_text(&self, moments: &[&Moment], room: usize) -> (String, String) {
        let versions = || moments.iter().map(|moment| version(moment));
        let (first, last) = (versions().min(), versions().max());
        let (first, last) = (first.unwrap_or(0), last.unwrap_or(0));
        let name = match first == last {
            true => format!("v{first}"),
            false => format!("v{first}{}v{last}", self.glyphs.to),
        };
        let told = moments.iter().max_by_key(|moment| telling(moment));
        let told = told.map(|moment| self.headline(moment)).unwrap_or_default();
        let others = moments.iter().any(|moment| self.headline(moment) != told);
        let more = if others { self.glyphs.more } else { "" };
        let room = room.saturating_sub(name.len() + 2);
        let text = format!(": {}", self.paint.cut(&(told + more), room));
        (name, text)
    }

    fn headline(&self, moment: &Moment) -> String {
        let message = self.paint.line(&moment.checkpoint.note.message);
        match message.is_empty() {
            true => self.done(moment),
            false => message,
        }
    }

    /// The tool and the files: `Edit src/auth.ts and 2 more`.
    fn done(&self, moment: &Moment) -> String {
        let tool = moment.checkpoint.note.call.tool.as_deref();
        let files = match &moment.changes[..] {
            [] => String::new(),
            [only] => self.path(only),
            [first, rest @ ..] => format!("{} and {} more", self.path(first), rest.len()),
        };
        let words = [self.paint.line(tool.unwrap_or("")), files];
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        words.join(" ").trim().to_owned()
    }

    fn path(&self, change: &Change) -> String {
        self.paint.exact(&String::from_utf8_lossy(&change.path))
    }

    fn details(&self, moment: &Moment) -> Vec<Line> {
        let note = &moment.checkpoint.note;
        let done = match note.call.tool {
            Some(_) => self.done(moment),
            None => self.headline(moment),
        };
        let name = format!("[v{}]", note.version);
        let text = format!(" {} - {done}", self.moment_of_day(note.time));
        let room = self.inner.saturating_sub(name.len());
        let heading = Line::new(Ink::Yellow, name).and(Ink::Bold, self.paint.cut(&text, room));
        let mut items = vec![];
        if note.call.tool.is_some() && done != self.headline(moment) {
            items.push(Line::new(
                Ink::Plain,
                format!("Message: {}", self.headline(moment)),
            ));
        }
        items.push(changed_lines(&moment.changes));
        items.extend(self.origin(note));
        let commands = self.commands(moment);
        let last = items.len() - 1;
        let items = items.into_iter().enumerate().map(|(at, item)| {
            let branch = match at == last {
                true => self.glyphs.last_item,
                false => self.glyphs.item,
            };
            self.fitted(Line::new(Ink::Dim, branch), item)
        });
        [heading]
            .into_iter()
            .chain(items)
            .chain([Line::default()])
            .chain(commands)
            .collect()
    }

    /// `line` and as much of `item` as the box holds.
    fn fitted(&self, mut line: Line, item: Line) -> Line {
        for (ink, text) in item.pieces {
            let room = self.inner.saturating_sub(line.columns());
            line = line.and(ink, self.paint.cut(&text, room));
        }
        line
    }

    fn moment_of_day(&self, time: i64) -> String {
        let days =
            |moment: Option<&&Moment>| moment.map(|m| (self.zone)(m.checkpoint.note.time).date());
        match days(self.moments.first()) == days(self.moments.last()) {
            true => (self.zone)(time).clock(),
            false => (self.zone)(time).short(),
        }
    }

    /// Prompt, tool, and the calls that ran meanwhile; or that there was no call.
    fn origin(&self, note: &Note) -> Vec<Line> {
        let mut items = Vec::new();
        if let Some(prompt) = &note.call.prompt {
            items.push(quoted("Prompt: ", prompt, self.paint, self.inner - 4));
        }
        match tool_call(&note.call, self.paint, self.inner - 10) {
            Some(call) => items.push(Line::new(Ink::Plain, format!("Tool: {call}"))),
            None => items.push(Line::new(Ink::Plain, format!("By {NO_CALL}"))),
        }
        for other in &note.others {
            let text = format!("Meanwhile: {}", actor(other, self.paint));
            items.push(Line::new(Ink::Plain, text));
        }
        items
    }

    /// What to type for this checkpoint.
    fn commands(&self, moment: &Moment) -> Vec<Line> {
        let name = version(moment);
        let before = self
            .moments
            .iter()
            .find(|before| Some(before.checkpoint.commit) == moment.checkpoint.parent);
        let mut commands = vec![format!("agentfs restore v{name}")];
        if let Some(before) = before {
            commands.push(format!("agentfs diff v{} v{name}", version(before)));
        }
        commands.push(format!("agentfs branch v{name} --name NAME"));
        let one_line = commands.join("   ");
        let lines = match one_line.len() <= self.inner {
            true => vec![one_line],
            false => commands,
        };
        let line = |text: String| Line::new(Ink::Dim, self.cut(&text));
        lines.into_iter().map(line).collect()
    }

    /// On two lines at most.
    fn files_most_changed(&self) -> Vec<Line> {
        let mut counts: HashMap<&[u8], usize> = HashMap::new();
        for change in self.moments.iter().flat_map(|moment| &moment.changes) {
            *counts.entry(&change.path).or_default() += 1;
        }
        let mut counts: Vec<(&[u8], usize)> = counts.into_iter().collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        let mut lines = vec!["Files most changed:".to_owned()];
        for (path, count) in counts {
            let path = self.paint.exact(&String::from_utf8_lossy(path));
            let file = format!(" {path} ({count}x),");
            let last = lines.len() - 1;
            if width(&lines[last]) + width(&file) <= self.inner + 1 {
                lines[last].push_str(&file);
            } else if last == 0 {
                lines.push(format!(" {file}"));
            } else {
                break;
            }
        }
        let text = lines.join("\n");
        let lines = text.trim_end_matches(',').lines();
        lines
            .map(|line| Line::new(Ink::Plain, self.cut(line)))
            .collect()
    }
}

/// How much a checkpoint says about its neighbours: what somebody named, then what changed most.
fn telling(moment: &Moment) -> (bool, bool, u64) {
    let note = &moment.checkpoint.note;
    let lines = moment.changes.iter();
    let lines = lines.map(|change| change.added.unwrap_or(0) + change.removed.unwrap_or(0));
    let named = note.trigger == super::note::Trigger::Manual && !note.message.is_empty();
    (note.pinned, named, lines.sum())
}

/// Which column shows which moment.
struct Axis {
    columns: usize,
    first: i64,
    last: i64,
    /// Times, and how far along the axis they are, in milliseconds of the shortened time.
    marks: Vec<(i64, i64)>,
    /// Shortened times, from and to, along the axis.
    idle: Vec<(i64, i64)>,
}

impl Axis {
    fn new(moments: &[&Moment], columns: usize) -> Axis {
        let times: Vec<i64> = moments.iter().map(|moment| time(moment)).collect();
        let gaps: Vec<i64> = times
            .windows(2)
            .map(|pair| pair[1].saturating_sub(pair[0]))
            .collect();
        let total: i64 = gaps.iter().fold(0, |sum, gap| sum.saturating_add(*gap));
        let is_idle = |gap: i64| gap > IDLE && gap > total / 5;
        let busy: i64 = gaps.iter().filter(|gap| !is_idle(**gap)).sum();
        let shortened = (busy / 12).max(1);
        // Two moments, however far apart, are the ends of the axis.
        let shorten = busy > 0;
        let (mut marks, mut idle, mut at) = (Vec::new(), Vec::new(), 0i64);
        for (time, gap) in times.iter().zip(std::iter::once(&0).chain(&gaps)) {
            if shorten && is_idle(*gap) && shortened < *gap {
                idle.push((at, at + shortened));
                at += shortened;
            } else {
                at = at.saturating_add(*gap);
            }
            marks.push((*time, at));
        }
        Axis {
            columns,
            first: times.first().copied().unwrap_or(0),
            last: times.last().copied().unwrap_or(0),
            marks,
            idle,
        }
    }

    fn column_at(&self, along: i64) -> usize {
        let length = self.marks.last().map_or(0, |(_, at)| *at).max(1);
        let end = self.columns.saturating_sub(1);
        (along as f64 / length as f64 * end as f64).round() as usize
    }

    fn column(&self, time: i64) -> usize {
        let at = self.marks.partition_point(|(mark, _)| *mark < time);
        self.marks
            .get(at)
            .map_or(0, |(_, along)| self.column_at(*along))
    }

    fn is_idle(&self, column: usize) -> bool {
        let within = |(from, to): &(i64, i64)| {
            self.column_at(*from) < column && column < self.column_at(*to)
        };
        self.idle.iter().any(within)
    }

    /// Moments with their columns. Those of one column move apart as long as none moves far.
    fn place<'a>(&self, moments: &[&'a Moment]) -> Vec<(usize, &'a Moment)> {
        let far = self.columns / 16;
        let mut placed: Vec<(usize, &Moment)> = Vec::with_capacity(moments.len());
        for moment in moments {
            let wanted = self.column(time(moment));
            let column = match placed.last() {
                Some((last, _)) if *last >= wanted + far => *last,
                Some((last, _)) => wanted.max(last + 1),
                None => wanted,
            };
            placed.push((column, moment));
        }
        let mut limit = self.columns.saturating_sub(1);
        for at in (0..placed.len()).rev() {
            let column = placed[at].0;
            let before = at.checked_sub(1).map(|before| placed[before].0);
            placed[at].0 = column.min(limit);
            let apart = before.is_some_and(|before| before < column);
            limit = placed[at].0.saturating_sub(usize::from(apart));
        }
        placed
    }
}

/// Neighbouring dots that share a label.
struct Cluster<'a> {
    first: usize,
    last: usize,
    /// Columns, and the moments that are there.
    dots: Vec<(usize, Vec<&'a Moment>)>,
}

impl<'a> Cluster<'a> {
    fn stem(&self) -> usize {
        (self.first + self.last).div_ceil(2)
    }

    fn moments(&self) -> Vec<&'a Moment> {
        self.dots
            .iter()
            .flat_map(|(_, moments)| moments.iter().copied())
            .collect()
    }
}

/// At most `most` clusters: those whose union is narrowest become one, until they are few enough.
fn clusters<'a>(placed: Vec<(usize, &'a Moment)>, most: usize) -> Vec<Cluster<'a>> {
    let mut clusters: Vec<Cluster> = Vec::new();
    for (column, moment) in placed {
        match clusters.last_mut() {
            Some(last) if last.last == column => last.dots[0].1.push(moment),
            _ => clusters.push(Cluster {
                first: column,
                last: column,
                dots: vec![(column, vec![moment])],
            }),
        }
    }
    while clusters.len() > most.max(1) {
        let width = |at: &usize| clusters[at + 1].last - clusters[*at].first;
        let Some(at) = (0..clusters.len() - 1).min_by_key(width) else {
            break;
        };
        let right = clusters.remove(at + 1);
        clusters[at].last = right.last;
        clusters[at].dots.extend(right.dots);
    }
    clusters
}

/// What no hook told about.
const NO_CALL: &str = "no tool call (an editor, a build, another program)";

/// `Changed: +47 -12 lines`, with the number of files where there are several.
fn changed_lines(changes: &[Change]) -> Line {
    let mut line = Line::new(Ink::Plain, "Changed: ");
    if changes.is_empty() {
        return line.and(Ink::Plain, "no file");
    }
    let (added, removed) = sums(changes);
    if changes.iter().any(|change| change.added.is_some()) {
        line = line
            .and(Ink::Green, format!("+{added}"))
            .and(Ink::Plain, " ")
            .and(Ink::Red, format!("-{removed}"))
            .and(Ink::Plain, " lines");
    } else {
        line = line.and(Ink::Plain, "binary");
    }
    match changes.len() {
        1 => line,
        files => line.and(Ink::Plain, format!(" in {files} files")),
    }
}

fn sums(changes: &[Change]) -> (u64, u64) {
    let sum = |count: fn(&Change) -> Option<u64>| changes.iter().filter_map(count).sum();
    (sum(|change| change.added), sum(|change| change.removed))
}

/// `Edit { file_path: "src/auth.ts", ... }`; nothing without a tool.
fn tool_call(call: &Call, paint: &Painter, room: usize) -> Option<String> {
    let tool = paint.line(call.tool.as_deref()?);
    let Some(Value::Object(input)) = &call.input else {
        return Some(tool);
    };
    let mut out = format!("{tool} {{ ");
    for (at, (key, value)) in input.iter().enumerate() {
        let value = paint.cut(&paint.line(&value.to_string()), 60);
        let field = format!("{}: {value}", paint.line(key));
        if at > 0 && width(&out) + width(&field) + 7 > room {
            out.push_str("..., ");
            break;
        }
        let field = paint.cut(&field, room.saturating_sub(width(&out) + 7));
        out.push_str(&field);
        out.push_str(", ");
    }
    out.truncate(out.trim_end_matches([',', ' ']).len());
    Some(format!("{out} }}"))
}

/// A heading and what somebody said, in quotation marks, cut to `room` columns.
fn quoted(heading: &str, said: &str, paint: &Painter, room: usize) -> Line {
    let room = room.saturating_sub(width(heading) + 2);
    let said = paint.cut(&paint.line(said), room);
    Line::new(Ink::Plain, heading).and(Ink::Plain, format!("\"{said}\""))
}

/// `Bash of session claude-abc123`
fn actor(call: &Call, paint: &Painter) -> String {
    let tool = paint.line(call.tool.as_deref().unwrap_or("a tool"));
    match &call.session {
        Some(session) => format!("{tool} of session {}", paint.line(session)),
        None => tool,
    }
}

/// A length of time in its two largest units, as narrow as can be: `2h 4m`.
fn elapsed(millis: i64) -> String {
    let seconds = millis.max(0) / 1_000;
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m"),
        (0, hours, minutes) => format!("{hours}h {minutes}m"),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

/// The versions of a file as a table; `rows` in the order to be shown.
pub fn history(file: &[u8], rows: &[Moment], columns: usize, paint: &Painter) -> String {
    const HEADINGS: [&str; 5] = ["VERSION", "SESSION", "TOOL", "CHANGE", "MESSAGE"];
    let name = paint.exact(&String::from_utf8_lossy(file));
    let versions = size::count(rows.len() as u64, "version");
    let mut out = format!("{} history ({versions})\n\n", paint.bold(&name));
    let cells: Vec<[String; 5]> = rows.iter().map(|row| cells(file, row, paint)).collect();
    let widths: Vec<usize> = (0..4)
        .map(|at| {
            let widths = cells.iter().map(|cells| width(&cells[at]));
            widths.max().unwrap_or(0).max(HEADINGS[at].len())
        })
        .collect();
    let room = columns.saturating_sub(widths.iter().sum::<usize>() + 8);
    let row = |cells: &[String; 5], inks: [Ink; 5]| {
        let mut line = Line::default();
        for (at, (cell, ink)) in cells.iter().zip(inks).enumerate() {
            line = match widths.get(at) {
                Some(width) => {
                    let blanks = padded(cell, width + 2);
                    line.and(ink, cell).and(Ink::Plain, &blanks[cell.len()..])
                }
                None => line.and(ink, paint.cut(cell, room.max(12))),
            };
        }
        line.painted(paint).trim_end().to_owned()
    };
    let _ = writeln!(out, "{}", row(&HEADINGS.map(str::to_owned), [Ink::Dim; 5]));
    let inks = [Ink::Yellow, Ink::Cyan, Ink::Plain, Ink::Plain, Ink::Plain];
    for cells in &cells {
        let _ = writeln!(out, "{}", row(cells, inks));
    }
    out
}

fn cells(file: &[u8], row: &Moment, paint: &Painter) -> [String; 5] {
    let note = &row.checkpoint.note;
    let calls = std::iter::once(&note.call).chain(&note.others);
    let [sessions, tools] = sessions_and_tools(calls, paint);
    let change = row.changes.iter().find(|change| change.path == file);
    [
        format!("v{}", note.version),
        sessions,
        tools,
        change_in_short(change),
        paint.line(&note.message),
    ]
}

/// Who took part, each named once, in as few columns as tell them apart.
fn sessions_and_tools<'a>(
    calls: impl Iterator<Item = &'a Call> + Clone,
    paint: &Painter,
) -> [String; 2] {
    let joined = |each: fn(&Call) -> Option<&str>| {
        let mut all: Vec<String> = Vec::new();
        for one in calls.clone().filter_map(each) {
            let one = paint.cut(&brief(&paint.line(one)), 16);
            if !all.contains(&one) {
                all.push(one);
            }
        }
        match all.is_empty() {
            true => "-".to_owned(),
            false => all.join(","),
        }
    };
    [
        joined(|call| call.session.as_deref()),
        joined(|call| call.tool.as_deref()),
    ]
}

/// The beginning of a UUID, which is enough to name a session; anything else as it is.
fn brief(session: &str) -> String {
    let uuid = session.len() == 36
        && session.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    let end = if uuid { 8 } else { session.len() };
    session[..end].to_owned()
}

fn change_in_short(change: Option<&Change>) -> String {
    let Some(change) = change else {
        return "-".to_owned();
    };
    match (change.status, change.added, change.removed) {
        ('D', ..) => "deleted".to_owned(),
        (_, Some(added), Some(removed)) => format!("+{added} -{removed}"),
        _ => "binary".to_owned(),
    }
}

/// Where lines of a file come from.
pub fn blame(origins: &[Origin], columns: usize, paint: &Painter) -> String {
    blamed(origins, columns, paint, &localtime::local)
}

fn blamed(
    origins: &[Origin],
    columns: usize,
    paint: &Painter,
    zone: &dyn Fn(i64) -> Civil,
) -> String {
    let told: Vec<String> = origins
        .iter()
        .map(|origin| told(origin, columns, paint, zone))
        .collect();
    told.join("\n")
}

/// Lines of a terminal that what was asked or said may take where it is the answer.
const QUOTED: usize = 8;

fn told(origin: &Origin, columns: usize, paint: &Painter, zone: &dyn Fn(i64) -> Civil) -> String {
    let mut out = blamed_lines(origin, paint);
    out.push('\n');
    let mut say = |line: Line| {
        let _ = writeln!(out, "{}", line.painted(paint));
    };
    if origin.note.version == 0 {
        say(Line::new(Ink::Plain, "Not in any checkpoint yet"));
        return out;
    }
    let introduced = |by: &str| {
        Line::new(Ink::Plain, "Introduced in ")
            .and(Ink::Yellow, format!("v{}", origin.note.version))
            .and(Ink::Plain, format!(" by {by}"))
    };
    let tool = |call: &Call| paint.line(call.tool.as_deref().unwrap_or("a"));
    match &origin.calls[..] {
        [] => say(introduced(NO_CALL)),
        [call] => say(introduced(&format!("{} tool", tool(call)))),
        calls => {
            let all = size::count(calls.len() as u64, "tool call");
            say(introduced(&format!("one of {all} that ran at once")));
        }
    }
    say(Line::new(
        Ink::Plain,
        format!("Time: {}", zone(origin.note.time).full()),
    ));
    for call in &origin.calls {
        if let Some(session) = &call.session {
            let shared = match origin.calls.len() {
                1 => String::new(),
                _ => format!(" ({} tool)", tool(call)),
            };
            say(Line::new(Ink::Plain, "Session: ")
                .and(Ink::Cyan, paint.line(session))
                .and(Ink::Plain, shared));
        }
        if let Some(prompt) = &call.prompt {
            say(quoted("Prompt: ", prompt, paint, QUOTED * columns));
        }
    }
    if let Some(words) = origin.words {
        say(quoted("Agent: ", words, paint, QUOTED * columns));
    }
    if origin.calls.is_empty() && !origin.note.message.is_empty() {
        let message = paint.line(&origin.note.message);
        say(Line::new(Ink::Plain, format!("Message: {message}")));
    }
    if let Some(change) = origin.change {
        say(changed_lines(std::slice::from_ref(change)).and(Ink::Plain, " in this file"));
    }
    out
}

/// The lines themselves, each origin named beside its first: for a whole file.
pub fn annotated(origins: &[Origin], columns: usize, paint: &Painter) -> String {
    const HEADINGS: [&str; 3] = ["VERSION", "SESSION", "TOOL"];
    let cells: Vec<[String; 3]> = origins.iter().map(|origin| beside(origin, paint)).collect();
    let widths: Vec<usize> = (0..3)
        .map(|at| {
            let widths = cells.iter().map(|cells| width(&cells[at]));
            widths.max().unwrap_or(0).max(HEADINGS[at].len()) + 2
        })
        .collect();
    let ends = origins
        .iter()
        .map(|origin| origin.line + origin.text.len() as u64);
    let digits = ends.max().unwrap_or(0).to_string().len().max(4);
    let room = columns.saturating_sub(widths.iter().sum::<usize>() + digits + 2);
    let row = |cells: &[String; 3], inks: [Ink; 3], number: &str, text: &str| {
        let mut line = Line::default();
        for ((cell, ink), width) in cells.iter().zip(inks).zip(&widths) {
            let blanks = padded(cell, *width);
            line = line.and(ink, cell).and(Ink::Plain, &blanks[cell.len()..]);
        }
        let line = line
            .and(Ink::Dim, format!("{number:>digits$}  "))
            .and(Ink::Plain, paint.cut(text, room.max(20)));
        format!("{}\n", line.painted(paint).trim_end())
    };
    let mut out = row(&HEADINGS.map(str::to_owned), [Ink::Dim; 3], "LINE", "");
    for (origin, cells) in origins.iter().zip(&cells) {
        for (at, text) in origin.text.iter().enumerate() {
            let number = (origin.line + at as u64).to_string();
            let text = paint.exact(&text.replace('\t', "    "));
            out += &match at {
                0 => row(cells, [Ink::Yellow, Ink::Cyan, Ink::Plain], &number, &text),
                _ => row(&Default::default(), [Ink::Plain; 3], &number, &text),
            };
        }
    }
    out
}

fn beside(origin: &Origin, paint: &Painter) -> [String; 3] {
    let version = match origin.note.version {
        0 => "-".to_owned(),
        version => format!("v{version}"),
    };
    let [sessions, tools] = sessions_and_tools(origin.calls.iter().copied(), paint);
    [version, sessions, tools]
}

/// One line in backquotes, or several with their numbers.
fn blamed_lines(origin: &Origin, paint: &Painter) -> String {
    let Origin { line, text, .. } = origin;
    if let [only] = &text[..] {
        let shown = paint.exact(only.trim());
        return format!("{} `{shown}`\n", paint.bold(&format!("Line {line}:")));
    }
    let last = line + text.len().saturating_sub(1) as u64;
    let mut out = format!("{}\n", paint.bold(&format!("Lines {line}-{last}:")));
    let digits = last.to_string().len();
    for (number, text) in (*line..).zip(text) {
        let number = paint.dim(&format!("{number:>digits$}"));
        let _ = writeln!(
            out,
            "  {number}  {}",
            paint.exact(&text.replace('\t', "    "))
        );
    }
    out
}

#[cfg(test)]
mod tests;
