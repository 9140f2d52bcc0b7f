//! The emulated WeChat.
