//! Which slots have room for which units. Where units differ in size, a layer takes slots of its own class only.

/// The class of each slot and of each layer; what they lack is of class 0.
#[derive(Clone, Copy, Debug)]
pub struct Classes<'a> {
    of_slot: &'a [u8],
    of_layer: &'a [u8],
}

impl<'a> Classes<'a> {
    /// By slot, and by layer that has units.
    #[must_use]
    pub fn new(of_slot: &'a [u8], of_layer: &'a [u8]) -> Classes<'a> {
        Classes { of_slot, of_layer }
    }

    /// All layers take any slot.
    #[must_use]
    pub fn one(of_slot: &'a [u8]) -> Classes<'a> {
        Classes { of_slot, of_layer: &[] }
    }

    /// The class of a layer.
    pub(super) fn of_layer(&self, layer: u32) -> u8 {
        self.of_layer.get(layer as usize).copied().unwrap_or(0)
    }

    /// The class of each slot.
    pub(super) fn of_slots(&self) -> &[u8] {
        self.of_slot
    }

    /// Slots of a class.
    pub(super) fn slots(&self, class: u8) -> u32 {
        self.of_slot.iter().filter(|other| **other == class).count() as u32
    }

    /// Slots of all classes.
    pub(super) fn slot_count(&self) -> u32 {
        self.of_slot.len() as u32
    }
}
