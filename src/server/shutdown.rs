//! Tells every connection of a thread that the server stops, and costs nothing until it does.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    task::Waker,
};

use tokio::time::Instant;

/// A bell that rings once.
#[derive(Default)]
pub struct ShutdownNotifier {
    rung: Cell<Option<Instant>>,
    heard_by: RefCell<HashMap<u64, Waker>>,
    next: Cell<u64>,
}

impl ShutdownNotifier {
    /// When it rang, if it has.
    pub fn notified_at(&self) -> Option<Instant> {
        self.rung.get()
    }

    /// Rings it: whoever hears it is woken.
    pub fn notify(&self) {
        self.rung.set(Some(Instant::now()));
        self.heard_by.borrow().values().for_each(Waker::wake_by_ref);
    }

    /// Wakes this task when it rings, until the ear is dropped.
    pub fn subscribe(self: &Rc<Self>, task: &Waker) -> ShutdownListener {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        self.heard_by.borrow_mut().insert(number, task.clone());
        ShutdownListener { bell: Rc::clone(self), number }
    }
}

/// Somebody who hears a bell.
pub struct ShutdownListener {
    bell: Rc<ShutdownNotifier>,
    number: u64,
}

impl Drop for ShutdownListener {
    fn drop(&mut self) {
        self.bell.heard_by.borrow_mut().remove(&self.number);
    }
}
