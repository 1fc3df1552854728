//! What a guest costs and what it can do in so many steps.

use super::*;
use std::fs;

fn dirty_pages(config: &SimConfig, steps: u64) -> u64 {
    let mut domain = created(config, 0);
    domain.enable_log_dirty().unwrap();
    domain.run(steps).unwrap();
    domain.peek_log_dirty(&mut full(&domain)).unwrap().dirty_count
}

/// Bytes of host memory behind the mapping at this address. The page of zeros that all read is not counted.
fn resident(address: usize) -> u64 {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in maps.lines() {
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        let bound = |text| usize::from_str_radix(text, 16).ok();
        if let Some((start, end)) = range.and_then(|(start, end)| bound(start).zip(bound(end))) {
            inside = (start..end).contains(&address);
        }
        if let Some(size) = line.strip_prefix("Rss:").filter(|_| inside) {
            return size.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10;
        }
    }
    panic!("no mapping at {address:#x}");
}

#[test]
fn as_many_pages_get_dirty_as_the_configuration_says() {
    let default = dirty_pages(&SimConfig::default(), 10);
    assert!((80..130).contains(&default), "{default}");
    for (working_set, writes_per_step, steps) in [(65_536, 100, 10), (65_536, 1000, 10), (2048, 100, 10), (512, 10, 7)]
    {
        let spread = SimConfig {
            memory: 1 << 17,
            working_set,
            writes_per_step,
            hot_permille: 0,
            whole_page_permille: 0,
            ..SimConfig::default()
        };
        let (pages, writes) = (working_set as f64, f64::from(writes_per_step) * steps as f64);
        let expected = pages * (1.0 - (-writes / pages).exp()) + 1.0;
        let found = dirty_pages(&spread, steps) as f64;
        assert!((found - expected).abs() <= expected * 0.03, "{found} instead of {expected}: {spread:?}");
    }
}

#[test]
fn a_step_answers_a_packet() {
    let mut domain = created(&SimConfig { packets_every: 0, ..SimConfig::small(1) }, 0);
    (0..200u8).for_each(|number| assert!(domain.nic().deliver(&[number])));
    domain.run(200).unwrap();
    let answers: Vec<_> = packets(&domain).iter().map(|packet| (packet.step, packet.payload[0])).collect();
    assert_eq!(answers, (0..200u8).map(|number| (number.into(), number)).collect::<Vec<_>>());
}

#[test]
fn a_big_guest_takes_host_memory_only_where_it_writes() {
    let config = SimConfig { memory: 1 << 20, working_set: 1 << 19, writes_per_step: 100, ..SimConfig::default() };
    let domain = created(&config, 10);
    let (memory, size) = (domain.memory(), PAGE_SIZE as u64);
    assert!(memory.populated() >= 1 << 20);
    // What is read is not backed either.
    let zero = memory.populated_pfns().filter(|&pfn| memory.page(pfn).unwrap()[0] == 0).count() as u64;
    assert!(zero > (1 << 20) - 2000);
    // The kernel may count neighbouring mappings of other tests' small guests with this one.
    let backed = resident(memory.address()) / size;
    assert!((config.image_pages..1 << 17).contains(&backed), "{backed} pages");
}
