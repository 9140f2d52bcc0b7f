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
pub struct Bell {
    rung: Cell<Option<Instant>>,
    heard_by: RefCell<HashMap<u64, Waker>>,
    next: Cell<u64>,
}

impl Bell {
    /// When it rang, if it has.
    pub fn rung(&self) -> Option<Instant> {
        self.rung.get()
    }

    /// Rings it: whoever hears it is woken.
    pub fn ring(&self) {
        self.rung.set(Some(Instant::now()));
        self.heard_by.borrow().values().for_each(Waker::wake_by_ref);
    }

    /// Wakes this task when it rings, until the ear is dropped.
    pub fn hear(self: &Rc<Self>, task: &Waker) -> Ear {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        self.heard_by.borrow_mut().insert(number, task.clone());
        Ear { bell: Rc::clone(self), number }
    }
}

/// Somebody who hears a bell.
pub struct Ear {
    bell: Rc<Bell>,
    number: u64,
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.bell.heard_by.borrow_mut().remove(&self.number);
    }
}
