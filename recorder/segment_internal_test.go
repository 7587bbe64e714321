package recorder

import (
	"strings"
	"testing"
)

func TestSegmentsOfUnknownPaths(t *testing.T) {
	for _, s := range strings.Fields(`x7Kp2QzR a1b2c3 aBcDeF KpQzRtWx alice.miller Alice.M.Miller alice1990 invite-x7Kp2QzR 2024abcd k3jhfdk
		order-48151 alice.miller.php abc12def`) {
		if !personal(s) {
			t.Errorf("%s is shown", s)
		}
	}
	for _, s := range strings.Fields(`v2 oauth2 oauth2-callback oauth2callback changePassword ChangePassword getUserByEmail signIn verifyOTP resendOTPCode getURLOf OPTIONS
		README wp-login.php favicon.ico robots.txt jquery.js .well-known .env.bak sha256 users step-1 2fa-verify webauthn_v2 two-factor 2fa saml2 api-2024
		zitadel.user.v2.UserService send-verification-otp x7Kp2 accept userAPIKeys createAPIToken OAuthCallback web3auth`) {
		if personal(s) {
			t.Errorf("%s is hidden", s)
		}
	}
}
