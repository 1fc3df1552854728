//! Which page frames were sent, when, and how often: a grid whose rows are page frames and whose columns are steps, in a bounded
//! number of cells. Where there is more than fits, neighbouring rows or columns are put together. Rows without any page are left out, so a guest's few
//! frames below 4 GiB do not cost it the detail of its memory.

use serde::Serialize;
use std::collections::BTreeMap;

/// Most rows.
pub const MAX_ROWS: usize = 1024;
/// Most columns. A power of two.
pub const MAX_COLUMNS: usize = 256;

/// The grid, as it is filled.
#[derive(Debug)]
pub struct PageMap {
    pfns_per_row: u64,
    steps_per_column: u64,
    step: u64,
    rows: BTreeMap<u64, Box<[u32; MAX_COLUMNS]>>,
}

/// The grid, as it is told.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Grid {
    /// Page frames of a row.
    pub pfns_per_row: u64,
    /// Steps of a column.
    pub steps_per_column: u64,
    /// Columns.
    pub columns: u64,
    /// The rows that have a page.
    pub rows: Vec<Row>,
}

/// A row.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its first page frame.
    pub pfn: u64,
    /// Column and number of pages sent, for each column that has one.
    pub cells: Vec<(u32, u32)>,
}

impl Default for PageMap {
    fn default() -> Self {
        PageMap { pfns_per_row: 1, steps_per_column: 1, step: 0, rows: BTreeMap::new() }
    }
}

impl PageMap {
    /// Takes a page that was sent.
    pub fn sent(&mut self, pfn: u64) {
        let column = (self.step / self.steps_per_column) as usize;
        let mut row = pfn / self.pfns_per_row;
        while self.rows.len() >= MAX_ROWS && !self.rows.contains_key(&row) {
            self.join_rows();
            row = pfn / self.pfns_per_row;
        }
        let row = self.rows.entry(row).or_insert_with(|| Box::new([0; MAX_COLUMNS]));
        if let Some(cell) = row.get_mut(column) {
            *cell = cell.saturating_add(1);
        }
    }

    /// The next step begins.
    pub fn next_step(&mut self) {
        self.step += 1;
        if self.step / self.steps_per_column < MAX_COLUMNS as u64 {
            return;
        }
        self.steps_per_column *= 2;
        for row in self.rows.values_mut() {
            let mut joined = [0; MAX_COLUMNS];
            for (to, pair) in joined.iter_mut().zip(row.chunks(2)) {
                *to = pair.iter().fold(0, |sum: u32, count| sum.saturating_add(*count));
            }
            **row = joined;
        }
    }

    fn join_rows(&mut self) {
        self.pfns_per_row *= 2;
        for (row, counts) in std::mem::take(&mut self.rows) {
            let to = self.rows.entry(row / 2).or_insert_with(|| Box::new([0; MAX_COLUMNS]));
            to.iter_mut().zip(counts.iter()).for_each(|(to, count)| *to = to.saturating_add(*count));
        }
    }

    /// What has come together, at the end of `steps` steps.
    pub fn grid(&self, steps: u64) -> Grid {
        let rows = self.rows.iter().map(|(row, counts)| {
            let cells = (0..).zip(counts.iter().copied()).filter(|(_, count)| *count > 0).collect();
            Row { pfn: row * self.pfns_per_row, cells }
        });
        Grid {
            pfns_per_row: self.pfns_per_row,
            steps_per_column: self.steps_per_column,
            columns: steps.div_ceil(self.steps_per_column),
            rows: rows.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_pages_are_kept_one_by_one() {
        let mut map = PageMap::default();
        map.sent(5);
        map.next_step();
        map.sent(5);
        map.sent(5);
        map.sent(u64::MAX);
        let rows = vec![Row { pfn: 5, cells: vec![(0, 1), (1, 2)] }, Row { pfn: u64::MAX, cells: vec![(1, 1)] }];
        assert_eq!(map.grid(2), Grid { pfns_per_row: 1, steps_per_column: 1, columns: 2, rows });
    }

    #[test]
    fn many_pages_and_steps_stay_within_the_bound_and_none_is_lost() {
        let mut map = PageMap::default();
        let mut sent = 0;
        for step in 0..1000_u64 {
            // All of memory now and then, scattered pages in between.
            for page in 0..if step % 100 == 0 { 5000 } else { 7 } {
                map.sent(if step % 3 == 0 { page } else { page * 0x1_0000_0001 + step });
                sent += 1;
            }
            map.next_step();
        }
        let grid = map.grid(1000);
        assert!(grid.rows.len() <= MAX_ROWS && grid.columns <= MAX_COLUMNS as u64);
        assert_eq!((grid.steps_per_column, grid.columns), (4, 250));
        let counted: u64 = grid.rows.iter().flat_map(|row| &row.cells).map(|(_, count)| u64::from(*count)).sum();
        assert_eq!(counted, sent);
        assert!(grid.rows.iter().all(|row| row.pfn % grid.pfns_per_row == 0));
        assert!(grid.rows.windows(2).all(|pair| pair[0].pfn + grid.pfns_per_row <= pair[1].pfn));
        assert!(grid.rows.iter().flat_map(|row| &row.cells).all(|(column, _)| u64::from(*column) < grid.columns));
    }
}
