-- Webhooks: where the deliveries of a trigger go if it calls no function, and the secret that signs
-- them. Then `function` is empty, as it is in its deliveries and dead letters.
ALTER TABLE triggers ADD COLUMN url TEXT;
ALTER TABLE triggers ADD COLUMN secret TEXT;
