//! Whatever was in the directory comes back, byte by byte, however it is asked for.

use std::fs;

use serde_json::Value;

use super::edits::Edits;
use super::tree::{self, Item, Tree, assert_same};
use super::world::{Ran, World};
use crate::rng::Rng;

/// A project with a past, and what it was at each point.
struct Past {
    world: World,
    /// By version, as far as one was made.
    saved: Vec<(u64, Tree)>,
    rng: Rng,
    seed: u64,
}

impl Past {
    fn new(world: World, seed: u64, length: usize, bound: bool) -> Past {
        let mut past = Past {
            world,
            saved: Vec::new(),
            rng: Rng::new(seed ^ 0xABCD),
            seed,
        };
        let mut rng = Rng::new(seed);
        for step in 0..length {
            let edits = if step == 0 { 40 } else { 1 + rng.below(8) };
            let mut hand = Edits {
                dir: &past.world.dir,
                rng,
                bound,
            };
            (0..edits).for_each(|_| hand.one());
            rng = hand.rng;
            past.world.hand_over();
            past.record(step);
        }
        past
    }

    fn record(&mut self, step: usize) {
        let world = &self.world;
        let tree = world.tree();
        let made = match step {
            0 => world.init()["checkpoint"].clone(),
            _ => world.checkpoint(&format!("step {step}")),
        };
        let known = self.saved.last().map(|(_, tree)| tree);
        let seed = self.seed;
        assert_eq!(
            made.is_null(),
            known == Some(&tree),
            "seed {seed} step {step}: a checkpoint if and only if something changed"
        );
        if made.is_null() {
            return;
        }
        let by_git = tree::name_by_git(&tree, &world.root.join("scratch"));
        assert_eq!(
            made["tree"].as_str(),
            Some(by_git.as_str()),
            "seed {seed} step {step}: the tree is git's"
        );
        self.saved.push((made["version"].as_u64().unwrap(), tree));
        if step.is_multiple_of(5) {
            world.assert_sound();
            fs::remove_file(world.index()).unwrap();
            let again = world.checkpoint("without the index");
            assert!(
                again.is_null(),
                "seed {seed} step {step}: what the index said is what is there: {again}"
            );
        }
    }

    fn pick(&mut self) -> (u64, Tree) {
        let at = self.rng.below(self.saved.len() as u64) as usize;
        self.saved[at].clone()
    }

    /// What becomes of a restore where repositories are whose `.git` is no part of any checkpoint:
    /// their directories stay. Tells whether one stands where a file was.
    fn beside_repositories(&self, before: &Tree, wanted: &Tree) -> (Tree, bool) {
        let mut expected = wanted.clone();
        let mut blocked = false;
        for (path, item) in before {
            let git = tree::at(&self.world.dir, path).join(".git");
            if !matches!(item, Item::Dir(_)) || git.symlink_metadata().is_err() {
                continue;
            }
            let ends = (0..=path.len()).filter(|at| path.get(*at).is_none_or(|b| *b == b'/'));
            for dir in ends.map(|at| &path[..at]) {
                match expected.get(dir) {
                    Some(Item::Dir(_)) => {}
                    there => {
                        blocked |= there.is_some();
                        expected.insert(dir.to_vec(), before[dir].clone());
                    }
                }
            }
        }
        (expected, blocked)
    }

    fn restore_all(&mut self) {
        for _ in 0..self.saved.len() * 2 {
            let (version, wanted) = self.pick();
            let before = self.world.tree();
            let what = format!("seed {} restore v{version}", self.seed);
            let said = self.world.json(["restore", &format!("v{version}")]);
            let (expected, blocked) = self.beside_repositories(&before, &wanted);
            if !blocked {
                assert_eq!(said["kept"], Value::Array(Vec::new()), "{what}");
            }
            assert_same(&self.world.tree(), &expected, &what);
            if self.rng.chance(30) && before != expected {
                let said = self.world.json(["undo"]);
                assert_eq!(said["kept"], Value::Array(Vec::new()), "{what}: undo");
                assert_same(&self.world.tree(), &before, &format!("{what}: undo"));
            }
        }
        self.world.assert_sound();
    }

    /// One path comes back, and nothing else is touched.
    fn restore_paths(&mut self) {
        for _ in 0..self.saved.len() * 2 {
            let (version, wanted) = self.pick();
            let (_, start) = self.pick();
            let paths: Vec<&Vec<u8>> = wanted.keys().chain(start.keys()).collect();
            let path = (*self.rng.pick(&paths)).clone();
            let before = self.world.tree();
            let place = tree::at(&self.world.dir, &path);
            let parents = (0..path.len()).filter(|at| path[*at] == b'/');
            let parents: Vec<_> = parents.map(|at| before.get(&path[..at])).collect();
            if parents
                .iter()
                .any(|item| matches!(item, Some(Item::Link(_))))
            {
                // The user means what the link leads to.
                continue;
            }
            let known = wanted.contains_key(&path) || before.contains_key(&path);
            let what = format!(
                "seed {} restore v{version} {:?}",
                self.seed,
                String::from_utf8_lossy(&path)
            );
            let mut command = self.world.command(["restore", "--json"]);
            command.arg(format!("v{version}")).arg(&place);
            let ran = Ran::of(&mut command);
            let after = self.world.tree();
            if !known {
                ran.complains(&["no such file"]);
                assert_same(&after, &before, &what);
                continue;
            }
            let said = ran.json();
            let in_the_way = parents
                .iter()
                .any(|item| !matches!(item, None | Some(Item::Dir(_))));
            for (at, item) in after.iter().filter(|(at, _)| !tree::covers(&path, at)) {
                let made = !before.contains_key(at) && tree::covers(at, &path);
                assert!(made || before.get(at) == Some(item), "{what}: {at:?}");
            }
            assert!(
                before
                    .keys()
                    .all(|at| tree::covers(&path, at) || after.contains_key(at)),
                "{what}: lost"
            );
            if in_the_way {
                assert_same(&after, &before, &what);
                continue;
            }
            let (expected, blocked) = self.beside_repositories(&before, &wanted);
            if !blocked {
                assert_eq!(said["kept"], Value::Array(Vec::new()), "{what}");
            }
            let only = |tree: Tree| -> Tree {
                let of = tree.into_iter();
                of.filter(|(at, _)| tree::covers(&path, at)).collect()
            };
            assert_same(&only(after), &only(expected), &what);
        }
    }
}

fn round_trip(world: World, seed: u64, length: usize, bound: bool) {
    let mut past = Past::new(world, seed, length, bound);
    past.restore_all();
    past.restore_paths();
    past.restore_all();
}

/// Two, or as many as `AGENTFS_TEST_SEEDS` says from `AGENTFS_TEST_SEED` on.
fn seeds() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok()?.parse().ok();
    let first = number("AGENTFS_TEST_SEED").unwrap_or(1);
    first..first + number("AGENTFS_TEST_SEEDS").unwrap_or(2)
}

#[test]
fn every_state_of_random_projects_comes_back() {
    for seed in seeds() {
        round_trip(World::empty(), seed, 25, false);
    }
}

#[test]
fn every_state_comes_back_for_a_user_whom_permissions_bind() {
    for seed in seeds() {
        let Some(world) = World::of_ordinary_user() else {
            return;
        };
        round_trip(world, 1_000 + seed, 20, true);
    }
}
