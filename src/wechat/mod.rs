//! WeChat's OAuth API.
