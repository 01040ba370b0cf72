//! What the drawings look like, to the last character.

use super::super::note::Trigger;
use super::*;

const FULL: Painter = Painter {
    colour: false,
    unicode: true,
};
const MINUTE: i64 = 60_000;
/// 2026-01-27 14:00 UTC.
const AFTERNOON: i64 = 1_769_522_400_000;

fn utc(millis: i64) -> Civil {
    let text = size::utc(millis.div_euclid(1_000));
    let number = |range: std::ops::Range<usize>| text[range].parse::<u8>().unwrap();
    Civil {
        year: text[..4].parse().unwrap(),
        month: number(5..7),
        day_of_month: number(8..10),
        hour: number(11..13),
        minute: number(14..16),
    }
}

fn change(path: &str, added: u64, removed: u64) -> Change {
    Change {
        path: path.into(),
        status: 'M',
        added: Some(added),
        removed: Some(removed),
    }
}

fn oid(version: u64) -> super::super::oid::Oid {
    format!("{version:040x}").parse().unwrap()
}

fn moment(version: u64, minute: i64, message: &str, changes: Vec<Change>) -> Moment {
    let call = Call {
        session: Some("claude-abc123".to_owned()),
        tool: Some("Edit".to_owned()),
        input: Some(serde_json::json!({"file_path": "src/auth.ts", "old_string": "x"})),
        prompt: Some("make the auth more robust".to_owned()),
        ..Call::default()
    };
    let note = Note {
        version,
        time: AFTERNOON + minute * MINUTE,
        message: message.to_owned(),
        trigger: Trigger::PostTool,
        call,
        ..Note::default()
    };
    Moment {
        checkpoint: Checkpoint {
            commit: oid(version),
            parent: (version > 1).then(|| oid(version - 1)),
            note,
            ..Checkpoint::default()
        },
        changes,
    }
}

fn auth(added: u64, removed: u64) -> Vec<Change> {
    vec![change("src/auth.ts", added, removed)]
}

fn afternoon() -> Vec<Moment> {
    vec![
        moment(1, 0, "init", vec![change("package.json", 1, 0)]),
        moment(5, 14, "package.json", vec![change("package.json", 12, 1)]),
        moment(6, 20, "initial structure", auth(120, 0)),
        moment(12, 38, "auth refactor", auth(89, 45)),
        moment(17, 51, "more error handling", auth(4, 0)),
        moment(18, 52, "error handling", auth(23, 5)),
        moment(19, 53, "fixed edge case", auth(3, 1)),
        moment(
            20,
            62,
            "added tests",
            vec![change("src/test.ts", 44, 0), change("src/auth.ts", 5, 0)],
        ),
        moment(34, 90, "wip", auth(1, 1)),
        moment(35, 102, "robust auth", auth(47, 12)),
        moment(
            40,
            114,
            "refactored tests",
            vec![change("src/test.ts", 15, 8)],
        ),
        moment(47, 124, "final cleanup", auth(2, 2)),
    ]
}

fn draw(moments: &[Moment], selected: Option<u64>, width: usize, paint: &Painter) -> String {
    drawn("myapp", moments, selected, width, paint, &utc)
}

/// Two sessions, one of them days later, and changes by no tool call between.
fn days() -> Vec<Moment> {
    let mut moments: Vec<Moment> = (1..=60)
        .map(|at| {
            let version = at as u64;
            moment(
                version,
                at * at / 20,
                &format!("step {at}"),
                auth(version, 1),
            )
        })
        .collect();
    for (at, moment) in moments.iter_mut().enumerate() {
        let note = &mut moment.checkpoint.note;
        match at {
            0..30 => {}
            30..40 => note.call = Call::default(),
            _ => {
                note.time += 50 * 60 * MINUTE;
                note.call.session = Some("7a1e9c2e-1234-4abc-8def-0123456789ab".to_owned());
            }
        }
    }
    moments
}

const ASCII_ONLY: Painter = Painter {
    colour: false,
    unicode: false,
};

fn is(drawn: &str, expected: &str) {
    assert!(drawn == expected.trim_start_matches('\n'), "\n{drawn}");
}

#[test]
fn an_afternoon_looks_as_promised() {
    is(
        &draw(&afternoon(), Some(35), 72, &FULL),
        r#"
┌──────────────────────────────────────────────────────────────────────┐
│  SESSION TIMELINE: myapp / 2026-01-27 afternoon                      │
├──────────────────────────────────────────────────────────────────────┤
│                                                                      │
│  Jan 27, 14:00                   16:04                               │
│  ═════════════════════════════════════                               │
│                                                                      │
│  Session: claude-abc123 (2h 4m)                                      │
│  ●───●─●────●───●●●●───────●───◆──●──●                               │
│  │   │ │    │   ││││       │   │  │  └─ v47: final cleanup           │
│  │   │ │    │   ││││       │   │  └──── v40: refactored tests        │
│  │   │ │    │   ││││       │   └─────── v35: robust auth             │
│  │   │ │    │   ││││       └─────────── v34: wip                     │
│  │   │ │    │   │││└─────────────────── v20: added tests             │
│  │   │ │    │   ││└──────────────────── v19: fixed edge case         │
│  │   │ │    │   │└───────────────────── v18: error handling          │
│  │   │ │    │   └────────────────────── v17: more error handling     │
│  │   │ │    └────────────────────────── v12: auth refactor           │
│  │   │ └─────────────────────────────── v6: initial structure        │
│  │   └───────────────────────────────── v5: package.json             │
│  └───────────────────────────────────── v1: init                     │
│                                                                      │
│  [v35] 15:42 - Edit src/auth.ts                                      │
│  ├── Message: robust auth                                            │
│  ├── Changed: +47 -12 lines                                          │
│  ├── Prompt: "make the auth more robust"                             │
│  └── Tool: Edit { file_path: "src/auth.ts", old_string: "x" }        │
│                                                                      │
│  agentfs restore v35                                                 │
│  agentfs diff v34 v35                                                │
│  agentfs branch v35 --name NAME                                      │
│                                                                      │
│  Files most changed: src/auth.ts (9x), package.json (2x),            │
│    src/test.ts (2x)                                                  │
│                                                                      │
└──────────────────────────────────────────────────────────────────────┘
"#,
    );
}

#[test]
fn a_narrow_terminal_without_unicode_sees_the_same() {
    is(
        &draw(&afternoon(), None, 40, &ASCII_ONLY),
        r#"
+--------------------------------------+
|  myapp / 2026-01-27 afternoon        |
+--------------------------------------+
|                                      |
|  14:00    16:04                      |
|  ==============                      |
|                                      |
|  Session: claude-abc123 (2h 4m)      |
|  ooo-oooo-o-oo@                      |
|  ||| |||| | ||`- v47: final cleanup  |
|  ||| |||| | |`-- v40: refactored...  |
|  ||| |||| | `--- v35: robust auth    |
|  ||| |||| `----- v34: wip            |
|  ||| |||`------- v20: added tests    |
|  ||| ||`-------- v19: fixed edge...  |
|  ||| |`--------- v17-v18: error...   |
|  ||| `---------- v12: auth refactor  |
|  ||`------------ v6: initial str...  |
|  |`------------- v5: package.json    |
|  `-------------- v1: init            |
|                                      |
|  [v47] 16:04 - Edit src/auth.ts      |
|  |-- Message: final cleanup          |
|  |-- Changed: +2 -2 lines            |
|  |-- Prompt: "make the auth mor..."  |
|  `-- Tool: Edit { file_pa..., ... }  |
|                                      |
|  agentfs restore v47                 |
|  agentfs branch v47 --name NAME      |
|                                      |
|  Files most changed:                 |
|    src/auth.ts (9x)                  |
|                                      |
+--------------------------------------+
"#,
    );
}

#[test]
fn crowded_dots_share_labels_and_idle_days_shrink() {
    is(
        &draw(&days(), None, 80, &FULL),
        r#"
┌──────────────────────────────────────────────────────────────────────────────┐
│  SESSION TIMELINE: myapp / 2026-01-27 – 2026-01-29                           │
├──────────────────────────────────────────────────────────────────────────────┤
│                                                                              │
│  Jan 27, 14:00                         Jan 29, 19:00                         │
│  ══════════════════════···══════════════════════════                         │
│                                                                              │
│  Session: claude-abc123 (Jan 27, 14:00, 45m)                                 │
│  ●●●●●●●●●●●●●●●●                                                            │
│  ╰┤╰┤╰┤╰┤╰┤╰┤╰┤╰┤                                                            │
│   │ │ │ │ │ │ │ └─ v29–v30: step 30 …                                        │
│   │ │ │ │ │ │ └─── v26–v28: step 28 …                                        │
│   │ │ │ │ │ └───── v23–v25: step 25 …                                        │
│   │ │ │ │ └─────── v19–v22: step 22 …                                        │
│   │ │ │ └───────── v15–v18: step 18 …                                        │
│   │ │ └─────────── v7–v14: step 14 …                                         │
│   │ └───────────── v3–v6: step 6 …                                           │
│   └─────────────── v1–v2: step 2 …                                           │
│                                                                              │
│  Session: 7a1e9c2e-1234-4abc-8def-0123456789ab (Jan 29, 17:24, 1h 36m)       │
│                           ●●●●●●─●●●─●●●─●●●─●●─●●─◆                         │
│                           ╰─┬╯╰┤ ╰┬╯ ╰┬╯ ╰┬╯ ╰┤ ╰┤ │                         │
│                             │  │  │   │   │   │  │ └─ v60: step 60           │
│                             │  │  │   │   │   │  └─── v58–v59: step 59 …     │
│                             │  │  │   │   │   └────── v56–v57: step 57 …     │
│                             │  │  │   │   └────────── v53–v55: step 55 …     │
│                             │  │  │   └────────────── v50–v52: step 52 …     │
│                             │  │  └────────────────── v47–v49: step 49 …     │
│                             │  └───────────────────── v45–v46: step 46 …     │
│                             └──────────────────────── v41–v44: step 44 …     │
│                                                                              │
│  No session (Jan 27, 14:48, 32m)                                             │
│               ●●●●●●●●●●                                                     │
│               ╰┤╰┤││││││                                                     │
│                │ ││││││└─ v40: step 40                                       │
│                │ │││││└── v39: step 39                                       │
│                │ ││││└─── v38: step 38                                       │
│                │ │││└──── v37: step 37                                       │
│                │ ││└───── v36: step 36                                       │
│                │ │└────── v35: step 35                                       │
│                │ └─────── v33–v34: step 34 …                                 │
│                └───────── v31–v32: step 32 …                                 │
│                                                                              │
│  [v60] Jan 29, 19:00 - Edit src/auth.ts                                      │
│  ├── Message: step 60                                                        │
│  ├── Changed: +60 -1 lines                                                   │
│  ├── Prompt: "make the auth more robust"                                     │
│  └── Tool: Edit { file_path: "src/auth.ts", old_string: "x" }                │
│                                                                              │
│  agentfs restore v60                                                         │
│  agentfs diff v59 v60                                                        │
│  agentfs branch v60 --name NAME                                              │
│                                                                              │
│  Files most changed: src/auth.ts (60x)                                       │
│                                                                              │
└──────────────────────────────────────────────────────────────────────────────┘
"#,
    );
}

#[test]
fn little_is_drawn_too() {
    is(
        &draw(&[], None, 40, &FULL),
        r"
┌──────────────────────────────────────┐
│  SESSION TIMELINE: myapp             │
├──────────────────────────────────────┤
│                                      │
│  No checkpoints yet                  │
│                                      │
└──────────────────────────────────────┘
",
    );
    let mut lone = moment(1, 0, "init", vec![]);
    lone.checkpoint.note.call = Call::default();
    is(
        &draw(&[lone], None, 72, &FULL),
        r"
┌──────────────────────────────────────────────────────────────────────┐
│  SESSION TIMELINE: myapp / 2026-01-27 afternoon                      │
├──────────────────────────────────────────────────────────────────────┤
│                                                                      │
│  Jan 27, 14:00                                                       │
│  ═════════════════════════════════════════════════════               │
│                                                                      │
│  No session (0s)                                                     │
│  ◆                                                                   │
│  └─ v1: init                                                         │
│                                                                      │
│  [v1] 14:00 - init                                                   │
│  ├── Changed: no file                                                │
│  └── By no tool call (an editor, a build, another program)           │
│                                                                      │
│  agentfs restore v1   agentfs branch v1 --name NAME                  │
│                                                                      │
└──────────────────────────────────────────────────────────────────────┘
",
    );
}

#[test]
fn every_row_is_as_wide_as_the_terminal_and_no_stranger_breaks_it() {
    let mut hostile = afternoon();
    for moment in &mut hostile {
        let note = &mut moment.checkpoint.note;
        note.message
            .push_str("\x1b[2J\n\u{65e5}\u{672c}\u{8a9e}\u{202e}");
        note.call.prompt = Some("\u{65e5}\u{672c}\u{8a9e}".repeat(90));
        note.call.input = Some(serde_json::json!({"\x07": "\x1b]0;x\x07".repeat(40)}));
        note.others = vec![Call {
            tool: Some("\u{9b}Bash".to_owned()),
            session: Some("s\r".repeat(120)),
            ..Call::default()
        }];
        moment.changes.push(Change {
            path: b"a\n\xff\x1b".repeat(30),
            status: 'A',
            added: None,
            removed: None,
        });
    }
    let many: Vec<Moment> = (0..1_000)
        .map(|at| {
            let mut moment = moment(at, (at * 7919 % 4000) as i64, "step", auth(1, 1));
            let session = format!("session-{}", at % 9);
            moment.checkpoint.note.call.session = Some(session);
            moment
        })
        .collect();
    for moments in [&hostile, &many, &days()] {
        for columns in (40..=200).step_by(5) {
            for paint in [FULL, ASCII_ONLY] {
                let drawn = draw(moments, None, columns, &paint);
                for row in drawn.lines() {
                    assert_eq!(width(row), columns, "{row:?}");
                    assert!(!row.chars().any(char::is_control), "{row:?}");
                    assert!(paint.unicode || row.is_ascii(), "{row:?}");
                }
            }
        }
    }
}

#[test]
fn colours_take_no_room() {
    let colours = Painter {
        colour: true,
        ..FULL
    };
    let mut drawn = draw(&days(), None, 80, &colours);
    assert!(drawn.contains("\x1b[33mv60\x1b[0m"), "{drawn}");
    for code in ["0", "1", "2", "31", "32", "33", "36"] {
        drawn = drawn.replace(&format!("\x1b[{code}m"), "");
    }
    assert_eq!(drawn, draw(&days(), None, 80, &FULL));
}

#[test]
fn the_axis_keeps_order_and_distances() {
    let moments = afternoon();
    let moments: Vec<&Moment> = moments.iter().collect();
    let axis = Axis::new(&moments, 125);
    let columns: Vec<usize> = axis.place(&moments).iter().map(|(at, _)| *at).collect();
    assert_eq!(columns, [0, 14, 20, 38, 51, 52, 53, 62, 90, 102, 114, 124]);
    for columns in 8..100 {
        let axis = Axis::new(&moments, columns);
        let placed = axis.place(&moments);
        assert!(placed.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        assert!(placed.iter().all(|(column, _)| *column < columns));
    }
}

#[test]
fn a_file_s_history_is_a_table() {
    let mut rows = afternoon();
    rows.reverse();
    rows[2].checkpoint.note.others.push(Call {
        session: Some("7a1e9c2e-1234-4abc-8def-0123456789ab".to_owned()),
        tool: Some("Bash".to_owned()),
        ..Call::default()
    });
    rows[3].checkpoint.note.call = Call::default();
    rows[4].changes[1].added = None;
    rows[5].changes[0].status = 'D';
    rows.truncate(7);
    is(
        &history(b"src/auth.ts", &rows, 72, &FULL),
        r"
src/auth.ts history (7 versions)

VERSION  SESSION                 TOOL       CHANGE   MESSAGE
v47      claude-abc123           Edit       +2 -2    final cleanup
v40      claude-abc123           Edit       -        refactored tests
v35      claude-abc123,7a1e9c2e  Edit,Bash  +47 -12  robust auth
v34      -                       -          +1 -1    wip
v20      claude-abc123           Edit       binary   added tests
v19      claude-abc123           Edit       deleted  fixed edge case
v18      claude-abc123           Edit       +23 -5   error handling
",
    );
    let one = history(b"src/auth.ts", &rows[..1], 20, &ASCII_ONLY);
    assert!(
        one.starts_with("src/auth.ts history (1 version)\n"),
        "{one}"
    );
}

#[test]
fn blame_names_tool_session_and_prompt() {
    let all = afternoon();
    let note = &all[5].checkpoint.note;
    let origin = Origin {
        line: 42,
        text: vec!["  if (token.expired()) throw new AuthError('Token expired');".to_owned()],
        note,
        change: all[5].changes.first(),
        calls: vec![&note.call],
        words: Some("I'll check\nwhether the token has expired."),
    };
    is(
        &blamed(&[origin], 80, &FULL, &utc),
        r#"
Line 42: `if (token.expired()) throw new AuthError('Token expired');`

Introduced in v18 by Edit tool
Time: 2026-01-27 14:52
Session: claude-abc123
Prompt: "make the auth more robust"
Agent: "I'll check whether the token has expired."
Changed: +23 -5 lines in this file
"#,
    );
}

#[test]
fn blame_says_what_no_call_made_and_what_several_may_have() {
    let all = afternoon();
    let note = &all[5].checkpoint.note;
    let other = Call {
        session: Some("claude-def456".to_owned()),
        tool: Some("Bash".to_owned()),
        ..Call::default()
    };
    let by_nobody = Origin {
        line: 9,
        text: vec!["a".to_owned(), "\tb".to_owned()],
        note,
        change: None,
        calls: vec![],
        words: None,
    };
    let shared = Origin {
        line: 12,
        text: vec!["c".to_owned()],
        calls: vec![&note.call, &other],
        ..by_nobody.clone()
    };
    is(
        &blamed(&[by_nobody, shared], 80, &FULL, &utc),
        r#"
Lines 9-10:
   9  a
  10      b

Introduced in v18 by no tool call (an editor, a build, another program)
Time: 2026-01-27 14:52
Message: error handling

Line 12: `c`

Introduced in v18 by one of 2 tool calls that ran at once
Time: 2026-01-27 14:52
Session: claude-abc123 (Edit tool)
Prompt: "make the auth more robust"
Session: claude-def456 (Bash tool)
"#,
    );
}

#[test]
fn a_whole_file_is_annotated() {
    let all = afternoon();
    let other = Call {
        session: Some("7a1e9c2e-1234-4abc-8def-0123456789ab".to_owned()),
        tool: Some("Bash".to_owned()),
        ..Call::default()
    };
    let unrecorded = Note::default();
    let first = Origin {
        line: 9,
        text: vec![
            "export function verify(token: Token) {".to_owned(),
            "\tif (token.expired()) {".to_owned(),
        ],
        note: &all[5].checkpoint.note,
        change: None,
        calls: vec![&all[5].checkpoint.note.call],
        words: None,
    };
    let shared = Origin {
        line: 11,
        text: vec!["    throw new AuthError('Token expired');".to_owned()],
        note: &all[7].checkpoint.note,
        calls: vec![&all[7].checkpoint.note.call, &other],
        ..first.clone()
    };
    let new = Origin {
        line: 12,
        text: vec!["}".to_owned()],
        note: &unrecorded,
        calls: vec![],
        ..first.clone()
    };
    is(
        &blamed(std::slice::from_ref(&new), 72, &FULL, &utc),
        r"
Line 12: `}`

Not in any checkpoint yet
",
    );
    is(
        &annotated(&[first, shared, new], 72, &FULL),
        r"
VERSION  SESSION                 TOOL       LINE
v18      claude-abc123           Edit          9  export function verif…
                                              10      if (token.expired…
v20      claude-abc123,7a1e9c2e  Edit,Bash    11      throw new AuthErr…
-        -                       -            12  }
",
    );
}
