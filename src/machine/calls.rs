//! The calls in memory: open ones, and settled ones that are still warm. A slab, a table by id, and the order of waits.
//!
//! Waits are first-in first-out: all calls under one policy version that wait for the same thing wait equally long, so the
//! order of their last changes is the order in which they fall due. That makes a timer two links in the call itself.
//! The few calls whose wait is cut short by `max_open` stand in an ordered map instead.

use std::collections::BTreeMap;

use super::evidence::Evidence;
use super::numbers::Numbers;
use super::prefetch::prefetch;
use super::verdict::Wait;
use crate::model::Ms;
use crate::model::id::{CallId, CallKey};

/// Place of a call in the slab.
pub type Slot = u32;

/// No slot.
pub const NIL: Slot = Slot::MAX;

/// Slots of one page, the unit in which the store keeps calls that aren't packed.
pub const PAGE_SLOTS: u32 = 32;

const CHUNK: usize = 1024;

/// In which queue a call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Queue {
    /// In none.
    None,
    /// Open, in the queue of its policy version and wait.
    Waiting(Wait),
    /// Open, in the ordered map, since `max_open` cuts its wait short.
    Capped,
    /// Settled with something to pack, by the time of the last change.
    Warm,
    /// Settled, read back and unchanged since: may be let go without packing.
    Clean,
}

/// One call with all that is known of it.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its id.
    pub id: CallId,
    /// The merged facts.
    pub evidence: Evidence,
    /// Open: the clock when its first event arrived. Settled: the clock of settling or of the last change of verdict or quantities.
    pub since: Ms,
    /// Open: the clock at the last change of the evidence.
    pub changed: Ms,
    /// Open: offset of the record that made the last change; orders waits that end at one instant.
    pub changed_by: u64,
    /// Number of the account.
    pub account: u32,
    /// 0 = open; else the revision of its verdict.
    pub revision: u32,
    /// Number of the policy version in force when its first event arrived.
    pub policy: u16,
    /// The operator's word is in [`Calls::corrections`].
    pub corrected: bool,
    /// Where it waits.
    pub queue: Queue,
    prev: Slot,
    next: Slot,
}

impl Call {
    /// A call that nothing is known of yet.
    pub fn new(id: CallId, account: u32, policy: u16, now: Ms, at: Ms) -> Self {
        Self {
            id,
            evidence: Evidence::new(at),
            since: now,
            changed: now,
            changed_by: 0,
            account,
            revision: 0,
            policy,
            corrected: false,
            queue: Queue::None,
            prev: NIL,
            next: NIL,
        }
    }

    /// Whether it has its verdict.
    pub fn is_settled(&self) -> bool {
        self.revision != 0
    }

    /// The instant by which it is forgotten (RULES §5): settling or last change, or its latest event.
    pub fn remembered_until(&self) -> Ms {
        self.since.max(self.evidence.last)
    }

    /// The hash by which it is found.
    pub fn hash(&self) -> u64 {
        self.id.key().hash(self.account)
    }
}

#[derive(Clone, Copy, Debug)]
struct List {
    head: Slot,
    tail: Slot,
    len: u32,
}

impl Default for List {
    fn default() -> Self {
        Self {
            head: NIL,
            tail: NIL,
            len: 0,
        }
    }
}

/// The slab, the table and the queues.
#[derive(Debug, Default)]
pub struct Calls {
    chunks: Vec<Vec<Option<Call>>>,
    free: Vec<Slot>,
    table: Numbers,
    /// By policy version and wait.
    waiting: Vec<[List; Wait::COUNT]>,
    /// Versions that have a waiting call, in order.
    in_use: Vec<u16>,
    capped: BTreeMap<(Ms, u64), Slot>,
    warm: List,
    clean: List,
    open: u64,
    resident: u64,
    /// Operator's words on resident calls.
    pub corrections: BTreeMap<Slot, Box<super::verdict::Correction>>,
    dirty_pages: Vec<u32>,
    page_is_dirty: Vec<bool>,
}

/// A call in the ordered map has no neighbours: its links hold the time by which it is found there.
fn capped_links(due: Ms) -> (Slot, Slot) {
    ((due >> 32) as u32, due as u32)
}

fn capped_due(prev: Slot, next: Slot) -> Ms {
    (u64::from(prev) << 32 | u64::from(next)) as Ms
}

impl Calls {
    /// Calls without a verdict.
    pub fn open(&self) -> u64 {
        self.open
    }

    /// Calls in memory, open or settled.
    pub fn resident(&self) -> u64 {
        self.resident
    }

    /// Settled calls in memory that are yet to be packed.
    pub fn warm(&self) -> u64 {
        u64::from(self.warm.len)
    }

    /// Settled calls in memory that were read back and are unchanged.
    pub fn clean(&self) -> u64 {
        u64::from(self.clean.len)
    }

    /// The call in `slot`.
    #[inline]
    pub fn get(&self, slot: Slot) -> Option<&Call> {
        self.chunks
            .get(slot as usize / CHUNK)?
            .get(slot as usize % CHUNK)?
            .as_ref()
    }

    /// Asks the processor for the call.
    #[inline]
    pub fn prefetch(&self, slot: Slot) {
        let chunk = self.chunks.get(slot as usize / CHUNK);
        if let Some(call) = chunk.and_then(|c| c.get(slot as usize % CHUNK)) {
            prefetch(call);
        }
    }

    /// Asks the processor for the calls before and after it in its queue, which change when it is taken out.
    #[inline]
    pub fn prefetch_neighbours(&self, slot: Slot) {
        if let Some(call) = self.get(slot) {
            self.prefetch(call.prev);
            self.prefetch(call.next);
        }
    }

    /// The call behind it in its queue.
    pub fn behind(&self, call: &Call) -> Option<&Call> {
        self.get(call.next)
    }

    /// Asks the processor for the call behind it in its queue.
    pub fn prefetch_behind(&self, call: &Call) {
        self.prefetch(call.next);
    }

    /// The call in `slot`, to change; its page will be written.
    #[inline]
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Call> {
        self.mark_dirty(slot);
        self.slot_mut(slot)
    }

    #[inline]
    fn slot_mut(&mut self, slot: Slot) -> Option<&mut Call> {
        self.chunks
            .get_mut(slot as usize / CHUNK)?
            .get_mut(slot as usize % CHUNK)?
            .as_mut()
    }

    fn mark_dirty(&mut self, slot: Slot) {
        let page = slot / PAGE_SLOTS;
        if self.page_is_dirty.get(page as usize) != Some(&true) {
            self.mark_page_dirty(page);
        }
    }

    #[cold]
    fn mark_page_dirty(&mut self, page: u32) {
        if self.page_is_dirty.len() <= page as usize {
            self.page_is_dirty.resize(page as usize + 1, false);
        }
        self.page_is_dirty[page as usize] = true;
        self.dirty_pages.push(page);
    }

    /// The slot of a resident call.
    pub fn find(&self, account: u32, key: &CallKey<'_>, hash: u64) -> Option<Slot> {
        self.table.find(hash, |slot| self.holds(slot, account, key))
    }

    /// Whether the slot holds this call.
    #[inline]
    pub fn holds(&self, slot: Slot, account: u32, key: &CallKey<'_>) -> bool {
        self.get(slot).is_some_and(|c| c.account == account && c.id.is(key))
    }

    /// The slot that [`Calls::find`] will look into first: to be asked for ahead.
    #[inline]
    pub fn likely(&self, hash: u64) -> Option<Slot> {
        self.table.find(hash, |_| true)
    }

    /// Asks the processor for the place in the table.
    #[inline]
    pub fn prefetch_place(&self, hash: u64) {
        self.table.prefetch(hash);
    }

    /// Puts a call in, in no queue.
    pub fn insert(&mut self, call: Call) -> Slot {
        let hash = call.hash();
        if !call.is_settled() {
            self.open += 1;
        }
        self.resident += 1;
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let full = self.chunks.last().is_none_or(|c| c.len() == CHUNK);
                if full {
                    self.chunks.push(Vec::with_capacity(CHUNK));
                }
                let chunk = self.chunks.len() - 1;
                let at = self.chunks[chunk].len();
                self.chunks[chunk].push(None);
                (chunk * CHUNK + at) as Slot
            }
        };
        self.chunks[slot as usize / CHUNK][slot as usize % CHUNK] = Some(call);
        self.mark_dirty(slot);
        self.table.insert(hash, slot);
        slot
    }

    /// Puts a call that the store held back into its slot, in no queue.
    pub fn restore(&mut self, slot: Slot, call: Call) {
        while self.chunks.len() * CHUNK <= slot as usize {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        for chunk in &mut self.chunks {
            chunk.resize_with(CHUNK, || None);
        }
        let hash = call.hash();
        if !call.is_settled() {
            self.open += 1;
        }
        self.resident += 1;
        self.chunks[slot as usize / CHUNK][slot as usize % CHUNK] = Some(call);
        self.table.insert(hash, slot);
    }

    /// After the last [`Calls::restore`]: finds the free slots, lowest last, so that they are used first.
    pub fn restored(&mut self) {
        let slots = (self.chunks.len() * CHUNK) as Slot;
        self.free = (0..slots).rev().filter(|&s| self.get(s).is_none()).collect();
    }

    /// Takes a call out.
    pub fn remove(&mut self, slot: Slot) -> Option<Call> {
        self.dequeue(slot);
        self.mark_dirty(slot);
        let call = self
            .chunks
            .get_mut(slot as usize / CHUNK)?
            .get_mut(slot as usize % CHUNK)?
            .take()?;
        let hash = call.hash();
        self.table.remove(hash, slot);
        self.free.push(slot);
        self.resident -= 1;
        if !call.is_settled() {
            self.open -= 1;
        }
        self.corrections.remove(&slot);
        Some(call)
    }

    /// Counts an open call as settled.
    pub fn settled(&mut self) {
        self.open -= 1;
    }

    fn list_mut(&mut self, queue: Queue, policy: u16) -> Option<&mut List> {
        match queue {
            Queue::Waiting(wait) => {
                let index = usize::from(policy);
                if self.waiting.len() <= index {
                    self.waiting.resize_with(index + 1, Default::default);
                }
                let list = &mut self.waiting[index][wait as usize];
                if list.len == 0
                    && let Err(at) = self.in_use.binary_search(&policy)
                {
                    self.in_use.insert(at, policy);
                }
                Some(list)
            }
            Queue::Warm => Some(&mut self.warm),
            Queue::Clean => Some(&mut self.clean),
            Queue::None | Queue::Capped => None,
        }
    }

    /// Takes the call out of its queue.
    pub fn dequeue(&mut self, slot: Slot) {
        let Some(call) = self.slot_mut(slot) else {
            return;
        };
        let (queue, policy, prev, next) = (call.queue, call.policy, call.prev, call.next);
        (call.queue, call.prev, call.next) = (Queue::None, NIL, NIL);
        if queue == Queue::Capped {
            let key = (capped_due(prev, next), call.changed_by);
            self.capped.remove(&key);
            return;
        }
        if queue == Queue::None {
            return;
        }
        if let Some(call) = self.slot_mut(prev) {
            call.next = next;
        }
        if let Some(call) = self.slot_mut(next) {
            call.prev = prev;
        }
        if let Some(list) = self.list_mut(queue, policy) {
            if list.head == slot {
                list.head = next;
            }
            if list.tail == slot {
                list.tail = prev;
            }
            list.len -= 1;
        }
    }

    /// Puts the call at the end of a queue, out of the one it was in.
    pub fn enqueue(&mut self, slot: Slot, queue: Queue) {
        self.dequeue(slot);
        let Some(policy) = self.slot_mut(slot).map(|c| c.policy) else {
            return;
        };
        let Some(list) = self.list_mut(queue, policy) else {
            return;
        };
        let tail = list.tail;
        list.tail = slot;
        list.len += 1;
        if tail == NIL {
            list.head = slot;
        }
        if let Some(last) = self.slot_mut(tail) {
            last.next = slot;
        }
        if let Some(call) = self.slot_mut(slot) {
            (call.queue, call.prev, call.next) = (queue, tail, NIL);
        }
    }

    /// Puts the call where `max_open` ends its wait at `due`. `changed_by` must stay as it is until it is taken out.
    pub fn enqueue_capped(&mut self, slot: Slot, due: Ms) {
        self.dequeue(slot);
        if let Some(call) = self.slot_mut(slot) {
            call.queue = Queue::Capped;
            (call.prev, call.next) = capped_links(due);
            let key = (due, call.changed_by);
            self.capped.insert(key, slot);
        }
    }

    /// The open call whose wait ends first, with the time; equal times in the order of the changes.
    pub fn first_due(&self, wait_ms: impl Fn(u16, Wait) -> Ms) -> Option<(Ms, Slot)> {
        let mut first: Option<(Ms, u64, Slot)> =
            self.capped.first_key_value().map(|(&(due, by), &slot)| (due, by, slot));
        for &policy in &self.in_use {
            let Some(lists) = self.waiting.get(usize::from(policy)) else {
                continue;
            };
            for wait in [Wait::Arrival, Wait::Grace, Wait::CallDeadline, Wait::TaskDeadline] {
                let Some(call) = self.get(lists[wait as usize].head) else {
                    continue;
                };
                let due = call.changed.saturating_add(wait_ms(policy, wait));
                let head = (due, call.changed_by, lists[wait as usize].head);
                if first.is_none_or(|f| (head.0, head.1) < (f.0, f.1)) {
                    first = Some(head);
                }
            }
        }
        first.map(|(due, _, slot)| (due, slot))
    }

    /// Forgets policy versions that no call waits under, so that looking for the first due stays short.
    pub fn prune_queues(&mut self) {
        let waiting = &self.waiting;
        self.in_use.retain(|&p| {
            waiting
                .get(usize::from(p))
                .is_some_and(|lists| lists.iter().any(|l| l.len > 0))
        });
    }

    /// The settled call that has waited longest to be packed.
    pub fn coldest(&self) -> Option<(Slot, &Call)> {
        self.get(self.warm.head).map(|c| (self.warm.head, c))
    }

    /// The settled call that was read back longest ago and is unchanged.
    pub fn first_clean(&self) -> Option<Slot> {
        (self.clean.head != NIL).then_some(self.clean.head)
    }

    /// Pages with a change since the last time this was asked, each once.
    pub fn take_dirty_pages(&mut self) -> Vec<u32> {
        let mut pages = std::mem::take(&mut self.dirty_pages);
        pages.sort_unstable();
        for &page in &pages {
            if let Some(dirty) = self.page_is_dirty.get_mut(page as usize) {
                *dirty = false;
            }
        }
        pages
    }

    /// The calls of a page, with their slots.
    pub fn page(&self, page: u32) -> impl Iterator<Item = (Slot, &Call)> {
        (page * PAGE_SLOTS..(page + 1) * PAGE_SLOTS).filter_map(|slot| self.get(slot).map(|call| (slot, call)))
    }

    /// Every resident call, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &Call)> {
        (0..(self.chunks.len() * CHUNK) as Slot).filter_map(|slot| self.get(slot).map(|call| (slot, call)))
    }

    /// Bytes of memory: slab, table, heap of calls that outgrew their inline lists.
    pub fn memory_bytes(&self) -> usize {
        let slab = self.chunks.iter().map(Vec::capacity).sum::<usize>() * size_of::<Option<Call>>();
        slab + self.table.memory_bytes() + self.free.capacity() * 4 + self.corrections.len() * 160
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_fits_its_budget() {
        // With 12 to 20 bytes of table a call: at most 220 to 230 in all.
        assert!(size_of::<Option<Call>>() <= 216, "{}", size_of::<Option<Call>>());
    }

    #[test]
    fn queues_keep_their_order() {
        let mut calls = Calls::default();
        let slots: Vec<Slot> = (0..4u64)
            .map(|n| {
                let mut call = Call::new(CallKey::Uuid(n.into()).to_owned(), 0, 0, 0, 0);
                call.changed = n as Ms;
                call.changed_by = n;
                let slot = calls.insert(call);
                calls.enqueue(slot, Queue::Waiting(Wait::Grace));
                slot
            })
            .collect();
        let wait = |_, _| 10;
        assert_eq!(calls.first_due(wait), Some((10, slots[0])));
        calls.dequeue(slots[0]);
        assert_eq!(calls.first_due(wait), Some((11, slots[1])));
        calls.remove(slots[2]);
        calls.dequeue(slots[1]);
        assert_eq!(calls.first_due(wait), Some((13, slots[3])));
        calls.enqueue_capped(slots[0], 5);
        assert_eq!(calls.first_due(wait), Some((5, slots[0])));
        assert_eq!(calls.resident(), 3);
    }
}
