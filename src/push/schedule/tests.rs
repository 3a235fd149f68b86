use std::sync::Arc;

use super::{LARGE, Role, Schedule};
use crate::push::PathFault;
use crate::push::plan::Plan;

fn schedule(items: &[(u64, &[usize])]) -> Schedule {
    let mut schedule = Schedule::new(Arc::new(Plan::made_up(items)));
    assert!(!schedule.is_finished());
    schedule.set_valid(|_| false);
    schedule
}

fn fail(schedule: &mut Schedule, place: usize) {
    let plan = schedule.plan.clone();
    let no_hash = |place: usize| PathFault::NoHash(plan.info(place).path.clone());
    schedule.fail(place, Arc::new(no_hash(place)), |place, _| no_hash(place));
}

#[test]
fn references_go_before_on_the_same_lane_without_waiting() {
    let mut one = schedule(&[(1, &[]), (1, &[0]), (1, &[1])]);
    assert_eq!(
        [
            one.next(0, Role::Main),
            one.next(0, Role::Main),
            one.next(0, Role::Main)
        ],
        [Some(0), Some(1), Some(2)]
    );
    assert_eq!(one.next(0, Role::Main), None);
    (0..3).for_each(|place| one.sent(place));
    assert!(one.is_finished());
}

#[test]
fn what_travels_elsewhere_is_waited_for_and_nothing_else() {
    let mut one = schedule(&[(LARGE, &[]), (1, &[0]), (1, &[]), (LARGE, &[2]), (1, &[3])]);
    one.set_large_lanes(1);
    assert_eq!(one.next(1, Role::Large), Some(0));
    assert_eq!(one.next(0, Role::Main), Some(2));
    assert_eq!(one.next(0, Role::Main), None, "1 waits for 0, 4 for 3");
    assert_eq!(one.next(1, Role::Large), None, "3 waits for 2");
    one.sent(0);
    assert_eq!(one.next(0, Role::Main), Some(1));
    one.sent(2);
    assert_eq!(one.next(1, Role::Large), Some(3));
    one.sent(1);
    assert_eq!(one.next(0, Role::Main), None);
    one.sent(3);
    assert_eq!(one.next(0, Role::Main), Some(4));
    assert!(!one.is_finished());
    one.sent(4);
    assert!(one.is_finished());
}

#[test]
fn the_main_lane_takes_large_ones_when_nobody_else_does_or_nothing_small_is_left() {
    let mut one = schedule(&[(LARGE, &[]), (1, &[])]);
    assert_eq!(one.next(0, Role::Main), Some(1));
    assert_eq!(one.next(0, Role::Main), Some(0));
    let mut one = schedule(&[(LARGE, &[]), (LARGE, &[]), (1, &[])]);
    one.set_large_lanes(1);
    assert_eq!(one.next(0, Role::Main), Some(2));
    assert_eq!(one.next(0, Role::Main), Some(0));
}

#[test]
fn a_lane_that_ends_gives_its_paths_back() {
    let mut one = schedule(&[(1, &[]), (1, &[0]), (1, &[])]);
    assert_eq!(
        [one.next(0, Role::Main), one.next(0, Role::Main)],
        [Some(0), Some(1)]
    );
    one.sent(0);
    one.release(0);
    assert_eq!(
        [one.next(7, Role::Main), one.next(7, Role::Main)],
        [Some(1), Some(2)]
    );
    // What had come after all counts as sent, what was collected goes again.
    one.release(7);
    assert_eq!(one.set_valid(|place| place == 1), 1);
    assert_eq!(
        [
            one.next(8, Role::Main),
            one.next(8, Role::Main),
            one.next(8, Role::Main)
        ],
        [Some(0), Some(2), None]
    );
}

#[test]
fn a_path_that_fails_costs_those_that_refer_to_it_and_no_others() {
    let mut one = schedule(&[(1, &[]), (1, &[0]), (1, &[1]), (1, &[]), (LARGE, &[0])]);
    assert_eq!(one.next(0, Role::Main), Some(0));
    fail(&mut one, 0);
    assert_eq!(one.next(0, Role::Main), Some(3));
    assert_eq!(one.next(0, Role::Main), None);
    one.sent(3);
    assert!(one.is_finished());
    assert_eq!(one.lacking().collect::<Vec<_>>(), [0, 1, 2, 4]);
    assert_eq!(one.faults().len(), 4);
}

#[test]
fn what_was_there_is_not_sent() {
    let mut one = Schedule::new(Arc::new(Plan::made_up(&[(1, &[]), (1, &[0])])));
    one.set_valid(|place| place == 0);
    assert_eq!((one.there(), one.next(0, Role::Main)), (1, Some(1)));
    one.sent(1);
    assert!(one.is_finished());
    assert_eq!(one.lacking().count(), 0);
}

#[test]
fn the_largest_goes_first() {
    let mut one = schedule(&[
        (LARGE, &[]),
        (3 * LARGE, &[]),
        (2 * LARGE, &[]),
        (4 * LARGE, &[0]),
    ]);
    one.set_large_lanes(1);
    let order: Vec<_> = std::iter::from_fn(|| one.next(1, Role::Large)).collect();
    assert_eq!(
        order,
        [1, 2, 0, 3],
        "one that waits goes behind its reference on the same lane"
    );
}

#[test]
fn the_lane_that_takes_blocks_gets_the_wide_ones_or_everything() {
    let items: [(u64, &[usize]); 4] = [(9 * LARGE, &[]), (LARGE, &[]), (1, &[]), (2 * LARGE, &[2])];
    let mut one = schedule(&items);
    one.set_large_lanes(1);
    one.leave_wide([0].into());
    assert_eq!(one.next(1, Role::Large), Some(1));
    assert_eq!(
        one.next(1, Role::Large),
        None,
        "0 is left to the blocks, 3 waits for 2"
    );
    assert_eq!(one.next(2, Role::Blocks), Some(0));
    assert_eq!(one.next(0, Role::Main), Some(2));
    one.sent(2);
    assert_eq!(
        one.next(2, Role::Blocks),
        Some(3),
        "then what else is large"
    );
    let mut one = schedule(&items);
    one.set_large_lanes(1);
    one.leave_all_to(2);
    assert_eq!(
        [one.next(0, Role::Main), one.next(1, Role::Large)],
        [None, None]
    );
    assert_eq!(one.next(3, Role::Blocks), None, "another one of these");
    let order: Vec<_> = std::iter::from_fn(|| one.next(2, Role::Blocks)).collect();
    assert_eq!(order, [2, 0, 3, 1]);
    assert!(one.is_left_to_another(0) && !one.is_left_to_another(2));
    // It is no more.
    one.release(2);
    one.lose_blocks();
    assert_eq!(one.next(1, Role::Large), Some(0));
    assert_eq!(one.next(0, Role::Main), Some(2));
}

#[test]
fn what_was_refused_by_way_of_blocks_goes_without() {
    let mut one = schedule(&[(1, &[]), (1, &[0]), (LARGE, &[]), (1, &[])]);
    one.leave_all_to(2);
    assert_eq!(one.next(2, Role::Blocks), Some(0));
    one.release(2);
    one.set_plain(0);
    one.set_plain(2);
    one.leave_all_to(3);
    assert_eq!(one.next(3, Role::Blocks), Some(3));
    assert_eq!(one.next(3, Role::Blocks), None, "1 waits for 0");
    assert_eq!(
        [one.next(0, Role::Main), one.next(0, Role::Main)],
        [Some(0), Some(2)]
    );
    assert_eq!(one.next(0, Role::Main), None);
    one.sent(0);
    assert_eq!(one.next(3, Role::Blocks), Some(1));
}
