//! Steps over time, in a bounded number of groups: where there are more steps, neighbours are put together.

use crate::inspect::meter::{Figures, Step};
use serde::Serialize;

/// Most groups. A power of two.
pub const MAX_GROUPS: usize = 2048;

/// Neighbouring steps, together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Group {
    /// The first one's round.
    pub round: u64,
    /// Its number within the round.
    pub iteration: u64,
    /// The last one's round.
    pub last_round: u64,
    /// How many steps.
    pub steps: u64,
    /// The most pages of one step.
    pub most_pages: u64,
    /// The sums.
    #[serde(flatten)]
    pub figures: Figures,
}

/// All steps of a stream.
#[derive(Debug, Clone, Serialize)]
pub struct Timeline {
    /// How many there are.
    pub steps: u64,
    /// How many a group has; the last one may have fewer.
    pub steps_per_group: u64,
    /// The groups.
    pub groups: Vec<Group>,
}

impl Default for Timeline {
    fn default() -> Self {
        Timeline { steps: 0, steps_per_group: 1, groups: Vec::new() }
    }
}

impl Timeline {
    /// Takes the next step.
    pub fn add(&mut self, step: Step) {
        let Step { round, iteration, figures } = step;
        let of_group = self.steps % self.steps_per_group;
        self.steps += 1;
        let group = Group { round, iteration, last_round: round, steps: 1, most_pages: figures.pages, figures };
        match self.groups.last_mut() {
            Some(last) if of_group > 0 => last.join(&group),
            _ => {
                if self.groups.len() >= MAX_GROUPS {
                    self.halve();
                }
                self.groups.push(group);
            }
        }
    }

    fn halve(&mut self) {
        let pairs = self.groups.chunks(2).filter_map(|pair| {
            let mut first = *pair.first()?;
            pair.iter().skip(1).for_each(|second| first.join(second));
            Some(first)
        });
        self.groups = pairs.collect();
        self.steps_per_group *= 2;
    }
}

impl Group {
    fn join(&mut self, next: &Group) {
        self.last_round = next.last_round;
        self.steps += next.steps;
        self.most_pages = self.most_pages.max(next.most_pages);
        self.figures.add(&next.figures);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_steps_is_kept_in_sum() {
        for steps in [0, 1, 2047, 2048, 2049, 10_000, 100_001] {
            let mut line = Timeline::default();
            for round in 0..steps {
                line.add(Step { round, iteration: 0, figures: Figures { pages: round, ..Figures::default() } });
            }
            assert!(line.groups.len() <= MAX_GROUPS && line.steps == steps, "{steps}");
            assert!(steps == 0 || line.groups.len() > MAX_GROUPS / 2 || line.steps_per_group == 1, "{steps}");
            let mut next = 0;
            for group in &line.groups {
                assert_eq!(group.round, next, "{steps}");
                next = group.last_round + 1;
                assert_eq!(group.steps, next - group.round, "{steps}");
                assert_eq!(group.most_pages, group.last_round, "{steps}");
            }
            assert_eq!(next, steps);
            assert_eq!(line.groups.iter().map(|group| group.figures.pages).sum::<u64>(), (0..steps).sum::<u64>());
        }
    }
}
