//! How long a page is.

use std::borrow::Cow;

use serde::de::{self, Deserialize, Deserializer};
use utoipa::ToSchema;

const MIN: u32 = 1;
const MAX: u32 = 100;
const DEFAULT: u32 = 50;

/// How many entries a page has at the most: 1 to 100, 50 if not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(minimum = 1, maximum = 100, default = 50)]
pub(super) struct Limit(u32);

impl Limit {
    pub(super) const fn get(self) -> u32 {
        self.0
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self(DEFAULT)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        // `u32::from_str` would let a plus sign through.
        let digits = Some(&*text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        digits
            .and_then(|digits| digits.parse().ok())
            .filter(|limit| (MIN..=MAX).contains(limit))
            .map(Self)
            .ok_or_else(|| de::Error::custom("must be a whole number from 1 to 100"))
    }
}
